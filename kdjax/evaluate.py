"""Logits and metrics over a whole data set: every example scored exactly once."""

import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from kdjax import metrics, sharding, stop
from kdjax.data import batches

Forward = Callable[..., jax.Array]


def forward(net, mesh) -> Forward:
  """Jitted (params, batch) -> logits f32[B, C], deterministic, rows split over the mesh."""
  return compiled(lambda params, batch: net(params, batch).logits, mesh)


def compiled(function, mesh) -> Forward:
  """Jitted (params, batch) -> rows; parameters as they lie."""
  rows, out = sharding.rows(mesh), sharding.fetched(mesh)
  return jax.jit(sharding.under(mesh, function), in_shardings=(None, rows), out_shardings=out)


def logits(
  run: Forward, params, data: batches.Dataset, batch_size: int, buckets: tuple[int, ...], mesh
) -> np.ndarray:
  """f32[n, C], in the order of the data set.

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


def scorer(net, task, names: tuple[str, ...], batch_size: int, buckets, mesh) -> Callable:
  """(params, data) -> metrics by name; compiles once per bucket."""
  run = forward(net, mesh)
  decide = jax.jit(task.decide)

  def score(params, data: batches.Dataset) -> dict[str, float]:
    out = logits(run, params, data, batch_size, buckets, mesh)
    return metrics.compute(names, np.asarray(decide(out)), data.label)

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
