"""Memory banks: a row a training example, and which rows are whose negatives.

Shapes: M bank rows, n training rows, E projection, B batch, K negatives.
"""

import jax
import jax.numpy as jnp

from kdjax import losses

Array = jax.Array

LANES = 128  # banks have a multiple of this many rows, so that they split over devices


def shelve(index, label, margin: float) -> tuple[Array, Array, Array, Array]:
  """Training rows by label, so that those an example may not have as negatives lie together.

  A bank row is a place among the sorted indices. Equal labels exclude each other: classes, sets of
  labels, and scores no further apart than margin standard deviations.

  Args:
    index: i32[n]. label: i32[n], f32[n] or f32[n, C].

  Returns:
    index i32[n], sorted; order i32[n], bank rows in order of label; low, high i32[n], by bank row:
    order[low:high] are not its negatives, itself among them.
  """
  by = jnp.argsort(jnp.asarray(index))
  index, label = jnp.asarray(index)[by], jnp.asarray(label)[by]
  if (index[1:] == index[:-1]).any():
    twice = index[1:][index[1:] == index[:-1]][0]
    raise ValueError(f'codir: two training rows have the index {twice}, and so one row of the bank')
  scores = jnp.issubdtype(label.dtype, jnp.floating)
  missing = jnp.isnan(label) if scores else label < 0
  if missing.any():
    raise ValueError(f'codir: {int(missing.sum())} training labels are missing (NaN or below 0)')
  if label.ndim == 2:
    label = jnp.unique(label, axis=0, return_inverse=True)[1].reshape(-1)
    scores = False
  apart = margin * label.std() if scores else 0
  order = jnp.argsort(label)
  low = jnp.searchsorted(label[order], label - apart, side='left')
  high = jnp.searchsorted(label[order], label + apart, side='right')
  alone = high - low == len(index)
  if alone.any():
    raise ValueError(
      f'codir: training row {index[alone][0]} has no negative: '
      + (f'no score is config.method.margin={margin} deviations away' if scores else 'one label')
    )
  return tuple(x.astype(jnp.int32) for x in (index, order, low, high))


def bank(key, n: int, dims: int) -> Array:
  """f32[M, E] at step 0, of expected square 1 as released; rows from n on are never drawn."""
  r = (3 / dims) ** 0.5
  return jax.random.uniform(key, (-(-n // LANES) * LANES, dims), jnp.float32, -r, r)


def draw(key, low_B: Array, high_B: Array, n: int, K: int) -> Array:
  """i32[B, K], places among n outside low to high, uniform.

  Without replacement, unless fewer than K are left. (As released, one class with K or fewer rows
  outside it makes every example draw with replacement.)
  """
  left_B1 = (n - (high_B - low_B))[:, None]
  enough_B1 = left_B1 >= K
  # Floyd's algorithm: the k-th is one of the first left - K + k, or the next where that is taken.
  last_BK = jnp.where(enough_B1, left_B1 - K + jnp.arange(K)[None], left_B1 - 1)
  tried_BK = jax.random.randint(key, last_BK.shape, 0, last_BK + 1)

  def choose(k, taken_BK):
    tried_B1 = jax.lax.dynamic_slice_in_dim(tried_BK, k, 1, 1)
    last_B1 = jax.lax.dynamic_slice_in_dim(last_BK, k, 1, 1)
    again_B1 = enough_B1 & (taken_BK == tried_B1).any(1, keepdims=True)
    new_B1 = jnp.where(again_B1, last_B1, tried_B1)
    return jax.lax.dynamic_update_slice_in_dim(taken_BK, new_B1, k, 1)

  taken_BK = jax.lax.fori_loop(0, K, choose, jnp.full_like(tried_BK, -1))
  return jnp.where(taken_BK < low_B[:, None], taken_BK, taken_BK + (high_B - low_B)[:, None])


def scores(anchor_BE: Array, bank_ME: Array, rows_BK1: Array, tau: float) -> Array:
  """f32[B, 1 + K], inner products with rows of a bank over tau; column 0 is the positive."""
  # tau is small: what fewer bits leave behind is multiplied by 1 / tau.
  return jnp.einsum('be,bke->bk', anchor_BE, bank_ME[rows_BK1], precision='highest') / tau


def update(bank_ME: Array, row_B: Array, v_BE: Array, momentum: float) -> Array:
  """The bank after a batch: rows move towards the vectors, which carry no gradient into it."""
  old_BE, v_BE = bank_ME[row_B], jax.lax.stop_gradient(v_BE)
  return bank_ME.at[row_B].set(losses.unit(momentum * old_BE + (1 - momentum) * v_BE))
