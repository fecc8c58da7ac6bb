"""Text or images with labels, and seeded choices of rows."""

from typing import NamedTuple

import numpy as np


class Table(NamedTuple):
  """One split, as text or as images.

  first: n texts, or images u8[n, H, W, C]; second: the other half of each pair of texts, or None.
  label: i32[n] class (-1: none), f32[n] score (NaN: none) or f32[n, C] bits (NaN: none).
  index: i32[n] row number in the source's split, counted from 0.
  """

  first: list[str] | np.ndarray
  second: list[str] | None
  label: np.ndarray
  index: np.ndarray


class Text(NamedTuple):
  """What a source gives.

  splits: name -> Table.
  labels: class names in id order, () for regression.
  origin: a sentence for logs: where the text came from.
  """

  splits: dict[str, Table]
  labels: tuple[str, ...]
  origin: str


def take(table: Table, rows: np.ndarray) -> Table:
  """The rows i64[m] of a table, in that order; `index` keeps naming the source's rows."""
  images = isinstance(table.first, np.ndarray)
  return Table(
    table.first[rows] if images else [table.first[i] for i in rows],
    None if table.second is None else [table.second[i] for i in rows],
    table.label[rows],
    table.index[rows],
  )


def subset(table: Table, fraction: float, size: int, seed: int, kind: str = 'classes') -> Table:
  """A seeded subset in the table's own order; classes keep their shares.

  Nested: with the same seed, a smaller subset is a subset of a larger one.

  Args:
    fraction: share of the rows, in (0, 1].
    size: at most this many rows after that; 0 for all.
    kind: 'classes' draws by class, 'regression' and 'multilabel' from all rows alike.

  Raises:
    ValueError: fraction or size out of range.
  """
  n = len(table.first)
  if not 0 < fraction <= 1:
    raise ValueError(f'config.data.train_fraction is {fraction}; it must be in (0, 1]')
  if size < 0:
    raise ValueError(f'config.data.train_size is {size}; it must be 0 (all) or more')
  count = max(1, round(fraction * n))
  if size:
    count = min(count, size)
  if count >= n:
    return table
  return take(table, np.sort(_ranking(table.label, seed, kind)[:count]))


def hold_out(table: Table, fraction: float, seed: int, kind: str) -> tuple[Table, Table]:
  """(rest, held out): a validation split made of a train split; classes keep their shares.

  Raises:
    ValueError: fraction out of range, or nothing left on one side.
  """
  n = len(table.first)
  if not 0 < fraction < 1:
    raise ValueError(f'config.data.validation_fraction is {fraction}; it must be in (0, 1)')
  count = max(1, round(fraction * n))
  if count >= n:
    raise ValueError(
      f'{n} rows cannot be cut into train and validation with config.data.validation_fraction='
      f'{fraction}: name a validation file in config.data.validation'
    )
  order = _ranking(table.label, seed, kind)
  return take(table, np.sort(order[count:])), take(table, np.sort(order[:count]))


def _ranking(label: np.ndarray, seed: int, kind: str) -> np.ndarray:
  """A seeded order of the rows, every prefix of which has about the classes' shares."""
  order = np.random.default_rng(seed).permutation(len(label))
  if kind != 'classes':
    return order
  place = np.empty(len(order))
  for value in np.unique(label):
    rows = np.flatnonzero(label[order] == value)
    place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
  return order[np.argsort(place, kind='stable')]
