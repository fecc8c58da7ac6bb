"""Text or images with labels, and seeded choices of rows."""

import hashlib
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


def unlabelled(n: int, kind: str, classes: int) -> np.ndarray:
  """Labels of n rows that have none."""
  if kind == 'classes':
    return np.full(n, -1, np.int32)
  return np.full((n, classes) if kind == 'multilabel' else n, np.nan, np.float32)


def labelled(label: np.ndarray) -> np.ndarray:
  """bool[n]: which rows have a label."""
  if label.dtype.kind == 'i':
    return label >= 0
  return ~np.isnan(label.reshape(len(label), -1)).any(1)


def take(table: Table, rows: np.ndarray) -> Table:
  """The rows i64[m] of a table, in that order; `index` keeps naming the source's rows."""
  images = isinstance(table.first, np.ndarray)
  return Table(
    table.first[rows] if images else [table.first[i] for i in rows],
    None if table.second is None else [table.second[i] for i in rows],
    table.label[rows],
    table.index[rows],
  )


def join(a: Table, b: Table) -> Table:
  """The rows of both, of texts, numbered anew."""
  n = len(a.first) + len(b.first)
  second = None if a.second is None else a.second + b.second
  return Table(
    a.first + b.first, second, np.concatenate([a.label, b.label]), np.arange(n, dtype=np.int32)
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
  strata = table.label if kind == 'classes' else None
  return take(table, np.sort(_ranking(strata, seed, np.ones(n), False)[:count]))


def keys(table: Table) -> list:
  """What a row says, as it is compared: case and white space aside; a digest of an image."""
  if isinstance(table.first, np.ndarray):
    return [hashlib.blake2b(image.tobytes()).digest() for image in table.first]
  plain = lambda texts: [' '.join(text.casefold().split()) for text in texts]  # noqa: E731
  if table.second is None:
    return plain(table.first)
  return list(zip(plain(table.first), plain(table.second), strict=True))


def hold_out(table: Table, fraction: float, seed: int, kind: str) -> tuple[Table, Table]:
  """(rest, held out): a validation split made of a train split.

  Rows that say the same (keys) stay on one side. Classes keep their shares; so do sets of labels,
  and tenths of the scores. Held out are round(fraction * n) rows, or the next number below that
  copies leave possible.

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
  numbers: dict = {}
  group_N = np.array([numbers.setdefault(key, len(numbers)) for key in keys(table)])
  _, first_G, size_G = np.unique(group_N, return_index=True, return_counts=True)
  held_G, left = np.zeros(len(size_G), bool), count
  for g in _ranking(_strata(table.label[first_G], kind), seed, size_G, kind != 'classes'):
    if size_G[g] <= left:
      held_G[g] = True
      left -= size_G[g]
    if not left:
      break
  if not held_G.any():
    raise ValueError(
      f'{n} rows are {len(size_G)} different ones, none of which is found {count} times or less: '
      'name a validation file in config.data.validation'
    )
  held_N = held_G[group_N]
  return take(table, np.flatnonzero(~held_N)), take(table, np.flatnonzero(held_N))


def _strata(label: np.ndarray, kind: str) -> np.ndarray:
  """i64[n]: rows of one number are to keep their share."""
  if kind == 'multilabel':
    return np.unique(label, axis=0, return_inverse=True)[1].reshape(-1)
  if kind == 'regression':
    return np.searchsorted(np.quantile(label, np.arange(1, 10) / 10), label)
  return label


def _ranking(strata: np.ndarray | None, seed: int, size: np.ndarray, loose: bool) -> np.ndarray:
  """A seeded order, every prefix of which has about the strata's shares; None: of no strata.

  Args:
    size: rows that each one counts for.
    loose: a stratum begins anywhere. Without, one of a single row is never in the first half: so
      rare sets of labels would all stay on one side.
  """
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(size))
  if strata is None:
    return order
  place = np.empty(len(order))
  for value in np.unique(strata):
    rows = np.flatnonzero(strata[order] == value)
    own = size[order[rows]]
    middle = np.cumsum(own) - own * (rng.random() if loose else 0.5)
    place[rows] = middle / own.sum()
  return order[np.argsort(place, kind='stable')]
