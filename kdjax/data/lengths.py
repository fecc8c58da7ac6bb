"""Lengths of batches: given, or chosen from the lengths of the rows."""

from collections.abc import Sequence

import numpy as np

AUTO = ('auto',)
SCORED = (16, 32, 64, 128, 256)  # of what is scored, up to max_length
# Finer saves little more: of SST-2 1.12 places a token, 1.07 by multiples of 2, 1.26 by those of 8.
# Dense layers see rows x length as one axis, so that a TPU's tiles of 8 do not ask for multiples.
_MULTIPLE = 4
# Places (rows x length) that a further length must save in a run. MiniLM's steps on CPU: compiling
# one takes as long as 14,000 to 40,000, loading it 3,000 to 6,000 (docs/performance.md).
_PRICE = 1 << 14


def settled(buckets: Sequence, max_length: int) -> tuple:
  """config.data.buckets, checked: 'auto' as it is, else up to max_length.

  Raises:
    ValueError: neither 'auto' alone nor lengths of 1 or more.
  """
  if tuple(buckets) == AUTO:
    return AUTO
  if not all(isinstance(bucket, int) and bucket >= 1 for bucket in buckets):
    raise ValueError(
      f"config.data.buckets is {tuple(buckets)}: it must be 'auto', or lengths of 1 or more"
    )
  return upto(buckets, max_length)


def upto(buckets: Sequence[int], max_length: int) -> tuple[int, ...]:
  """The buckets below max_length, and max_length itself, in order.

  So no row is cut for its bucket, and no bucket is longer than any row can be.
  """
  return tuple(sorted({int(b) for b in buckets if b < max_length} | {int(max_length)}))


def choose(longest: np.ndarray, max_length: int, batch_size: int, played: int) -> tuple[int, ...]:
  """The lengths with which a run costs least: its places, and _PRICE for each length.

  By dynamic programming over all multiples of 4 (and max_length): exact where an epoch plays every
  row, and nearly so where it leaves out less than a batch.

  Args:
    longest: i32[n], the length that each row asks of its batch, max_length at most.
    played: rows that the run learns from, in all epochs together.
  """
  whole = -(-longest // _MULTIPLE) * _MULTIPLE
  grid = [int(L) for L in np.unique(np.minimum(whole, max_length))]
  n, upto_L = len(longest), _played(longest, grid, batch_size)
  # Per number of rows that are no longer: (cost x n, lengths), of which the last is the longest.
  best = [(0, ())]
  for k, L in enumerate(grid, 1):
    best.append(
      min(
        (cost + n * _PRICE + played * L * int(upto_L[k] - upto_L[j]), (*shapes, L))
        for j, (cost, shapes) in enumerate(best)
      )
    )
  return best[-1][1]


def places(longest: np.ndarray, shapes: Sequence[int], batch_size: int) -> int:
  """Places of an epoch that plays every row."""
  return int(np.diff(_played(longest, shapes, batch_size)) @ np.array(shapes))


def _played(longest: np.ndarray, shapes: Sequence[int], batch_size: int) -> np.ndarray:
  """i64[1 + K]: 0, and the rows in batches of each length or a shorter one.

  What does not fill a batch goes on to the next length (batches.train_plan): whole batches.
  """
  bucket = np.searchsorted(shapes, longest)
  rows = np.cumsum(np.bincount(bucket, minlength=len(shapes)))
  return np.concatenate([[0], np.where(rows < len(longest), rows - rows % batch_size, rows)])
