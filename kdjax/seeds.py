"""Many seeds of one run in one program: what each has of its own lies along a first axis, S.

A list of one has no such axis: its programs, checkpoints and files are those of a single run.
"""

import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import log

Row = dict[str, float]  # metrics


def configs(c) -> dict[int, Any]:
  """Each seed's config, as its single run would have it."""
  found = {}
  for seed in range(c.seed, c.seed + c.seeds):
    own = c.copy_and_resolve_references()
    with own.unlocked():
      own.update(seed=seed, seeds=1)
    found[seed] = own
  return found


def each(function: Callable, in_axes, out_axes: int = 0) -> Callable:
  """The function of one seed, for all; what it lays out keeps its seed where it is."""
  return jax.vmap(function, in_axes, out_axes, spmd_axis_name='seed')


def join(trees: Sequence[Any]) -> Any:
  """[S, ...] of each leaf; of one tree, itself."""
  return jax.tree.map(lambda *x: jnp.stack(x), *trees) if len(trees) > 1 else trees[0]


def part(tree: Any, seeds: int) -> list[Any]:
  """What `join` was given, for so many seeds."""
  return [jax.tree.map(lambda x, s=s: x[s], tree) for s in range(seeds)] if seeds > 1 else [tree]


def choose(taken: Sequence[bool], new: Any, old: Any) -> Any:
  """Of each seed the new tree or the old one."""
  taken = np.array(taken)
  where = lambda a, b: jnp.where(taken.reshape(-1, *[1] * (a.ndim - 1)), a, b)  # noqa: E731
  return jax.tree.map(where, new, old)


def batches(streams: Sequence[Iterable[Any]]) -> Iterator[Any]:
  """Of streams that go through the same lengths, [S, ...] of each leaf: [S, B, ...] of batches."""
  if len(streams) == 1:
    return iter(streams[0])
  stacked = lambda *own: jax.tree.map(lambda *x: np.stack(x), *own)  # noqa: E731
  return map(stacked, *streams)


def rows(metrics: list[dict], seeds: int) -> list[list[Row]]:
  """Each seed's metrics of some steps; metrics: name -> a number, or a list of each seed's."""
  if seeds == 1:
    return [metrics]
  return [[{k: v[s] for k, v in row.items()} for row in metrics] for s in range(seeds)]


def mean(scores: Sequence[Row]) -> Row:
  """Over the seeds that have a metric."""
  return {k: float(np.mean(v)) for k, v in _columns(scores).items()}


def std(scores: Sequence[Row]) -> Row:
  """The sample standard deviation, n - 1, of metrics that two seeds or more have."""
  found = _columns(scores)
  return {k: float(np.std(v, ddof=1)) for k, v in found.items() if len(v) > 1}


def _columns(scores: Sequence[Row]) -> dict[str, list[float]]:
  names = dict.fromkeys(name for row in scores for name in row)
  return {name: [row[name] for row in scores if name in row] for name in names}


def summary(scores: dict[int, dict[str, Row]]) -> dict[str, Any]:
  """Metrics by split of each seed -> split: means, then std and seeds; of one seed, its own."""
  each = list(scores.values())
  if len(each) == 1:
    return each[0]
  by_split = {split: [own[split] for own in each] for split in each[0]}
  means = {split: mean(found) for split, found in by_split.items()}
  spreads = {split: std(found) for split, found in by_split.items()}
  return means | dict(std=spreads, seeds={str(seed): own for seed, own in scores.items()})


class Writer:
  """The log of a run: of several seeds each its own, and one of means and standard deviations."""

  def __init__(self, workdir: pathlib.Path, seeds: Sequence[int], *rest):
    folders = [workdir] + [workdir / f'seed{seed}' for seed in seeds] * (len(seeds) > 1)
    self._all, *self._own = (log.Writer(folder, *rest) for folder in folders)

  def write(self, step: int, scores: Sequence[Row]) -> None:
    """One row of each."""
    for writer, row in zip(self._own, scores, strict=bool(self._own)):
      writer.write(step, row)
    row = scores[0]
    if self._own:
      spread = {f'{k}/std': v for k, v in std(scores).items() if k != 'examples_per_second'}
      row = mean(scores) | spread
    self._all.write(step, row)

  def close(self) -> None:
    """Flush and close all."""
    for writer in (self._all, *self._own):
      writer.close()
