"""Logits and metrics over a whole data set: every example scored exactly once."""

import hashlib
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from kdjax import metrics, seeds, sharding, stop
from kdjax.data import batches

Forward = Callable[..., jax.Array]


def forward(net, mesh, many: bool = False) -> Forward:
  """Jitted (params, batch) -> logits f32[B, C], deterministic, rows split over the mesh.

  many: of several seeds' parameters, f32[B, S, C].
  """
  return compiled(lambda params, batch: net(params, batch).logits, mesh, many)


def compiled(function, mesh, many: bool = False) -> Forward:
  """Jitted (params, batch) -> rows; parameters as they lie; many: rows [B, S, ...] of all seeds."""
  if many:
    function = seeds.each(function, (0, None), 1)
  rows, out = sharding.rows(mesh), sharding.fetched(mesh)
  return jax.jit(sharding.under(mesh, function), in_shardings=(None, rows), out_shardings=out)


def logits(
  run: Forward, params, data: batches.Dataset, batch_size: int, buckets: tuple[int, ...], mesh
) -> np.ndarray:
  """f32[n, C], of several seeds f32[n, S, C], in the order of the data set.

  Raises:
    AssertionError: an example was scored twice or not at all, or two rows have one index.
  """
  pieces, ids = [], []
  for batch, real in _ahead(data, batch_size, buckets, mesh, run, params):
    pieces.append(np.asarray(batch[1], np.float32)[:real])
    ids.append(batch[0][:real])
  ids, pieces = np.concatenate(ids), np.concatenate(pieces)
  order, want = np.argsort(ids), np.argsort(data.index)
  if not np.array_equal(ids[order], data.index[want]):
    raise AssertionError(f'scored {len(ids)} rows of {len(data.index)}')
  if len(np.unique(ids)) != len(ids):
    raise AssertionError('the data set names a row twice')
  out = np.empty_like(pieces)
  out[want] = pieces[order]
  return out


def digest(params) -> str:
  """Hex digest of weights, and of the version of JAX, which may add up in another order."""
  found = hashlib.sha256(f'{jax.__version__} {jax.tree.structure(params)}'.encode())
  for leaf in jax.tree.leaves(params):
    found.update(np.ascontiguousarray(sharding.whole(leaf)))
  return found.hexdigest()


def _ahead(data, batch_size, buckets, mesh, run, params) -> Iterator:
  """Dispatch batch n + 1 before batch n is fetched."""
  waiting = None
  own = sharding.own(mesh, batch_size)
  for batch, real in batches.eval_batches(data, batch_size, buckets, own):
    stop.point()
    now = (batch['index'], run(params, sharding.put(batch, mesh))), real
    if waiting:
      yield waiting
    waiting = now
  if waiting:
    yield waiting


def scorer(
  net, task, names: tuple[str, ...], batch_size: int, buckets, mesh, many: bool = False
) -> Callable:
  """(params, data) -> metrics by name; compiles once per bucket; many: a list, of each seed."""
  run = forward(net, mesh, many)
  decide = jax.jit(task.decide)

  def rated(data: batches.Dataset, out_NC: np.ndarray) -> dict[str, float]:
    return metrics.compute(names, np.asarray(decide(out_NC)), data.label, out_NC.shape[1])

  return each(run, rated, batch_size, buckets, mesh, many)


def each(run: Forward, rated: Callable, batch_size: int, buckets, mesh, many: bool) -> Callable:
  """(params, data) -> what `rated` makes of (data, its rows); many: a list, of each seed."""

  def score(params, data: batches.Dataset):
    out = logits(run, params, data, batch_size, buckets, mesh)
    return [rated(data, own) for own in out.swapaxes(0, 1)] if many else rated(data, out)

  return score


def speed(runs: dict[str, Callable[[], object]], examples: int, rounds: int = 3) -> dict:
  """Examples per second of each, medians over rounds that take turns (machines are noisy)."""
  seconds = {name: [] for name in runs}
  for call in runs.values():
    call()  # compilation is not counted
  for _ in range(rounds):
    for name, call in runs.items():
      start = time.perf_counter()
      call()
      seconds[name].append(time.perf_counter() - start)
  return {name: examples / float(np.median(s)) for name, s in seconds.items()}


def latency(calls: dict[str, Callable], rows: list) -> dict[str, float]:
  """Median ms of a call of one row, the calls in turn; compilation is not counted."""
  spent = {name: [] for name in calls}
  for timed in (False, True):
    for row in rows:
      for name, call in calls.items():
        begin = time.perf_counter()
        call(row)
        if timed:
          spent[name].append(time.perf_counter() - begin)
  return {name: float(np.median(own)) * 1e3 for name, own in spent.items()}
