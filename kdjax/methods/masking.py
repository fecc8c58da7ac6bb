"""Hiding tokens of a batch: a fixed number of slots a row, so that only hidden places are decoded.

A masked-LM head over all of [B, L] costs a vocabulary's worth of logits a position, and asks for a
seventh of them. The slots are static: one compiled program, whatever is drawn. All is done row by
row, so that a batch that is split over devices stays split.

Shapes: B batch, L length, K slots a row, D width, V vocabulary.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def capacity(length: int, rho: float, slack: float) -> int:
  """Slots K for a row of L places, each hidden with probability rho: the mean and `slack` sigmas.

  min(L, ceil(rho L + slack sqrt(rho (1 - rho) L))).
  """
  wanted = rho * length + slack * (rho * (1 - rho) * length) ** 0.5
  return min(length, int(-(-wanted // 1)))


def hide(
  key_or_noise: Array, maskable_BL: Array, rho: float, capacity: int
) -> tuple[Array, Array, Array]:
  """Draw the places to hide: each maskable one with probability rho, at most K a row.

  Of more than K, K are kept at random: the end of a text is hidden as often as its beginning.

  Args:
    key_or_noise: a key of jax.random.key, or uniform draws f32[B, L] in [0, 1).

  Returns:
    positions i32[B, K]: the kept places in ascending order, then L (out of range) in unused slots;
    hidden bool[B, L]: the same places; overflow i32[]: places drawn but not kept, of the batch.
  """
  L = maskable_BL.shape[1]
  u_BL = key_or_noise
  if jnp.issubdtype(u_BL.dtype, jax.dtypes.prng_key):
    u_BL = jax.random.uniform(u_BL, maskable_BL.shape)
  drawn_BL = maskable_BL & (u_BL < rho)
  # Given u < rho, u says nothing of the place: the smallest K are a fair choice.
  order_BL = jnp.argsort(jnp.where(drawn_BL, u_BL, 2.0), axis=1).astype(jnp.int32)
  used_BK = jnp.arange(capacity)[None] < drawn_BL.sum(1, keepdims=True)
  positions_BK = jnp.sort(jnp.where(used_BK, order_BL[:, :capacity], L), axis=1)
  hidden_BL = put(jnp.zeros_like(drawn_BL), positions_BK, used_BK)
  return positions_BK, hidden_BL, drawn_BL.sum() - hidden_BL.sum()


def take(x_BLD: Array, positions_BK: Array) -> Array:
  """x [B, L, ...] at positions -> [B, K, ...]; zeros in slots that are out of range."""
  return jax.vmap(lambda x, at: x.at[at].get(mode='fill', fill_value=0))(x_BLD, positions_BK)


def put(x_BLD: Array, positions_BK: Array, values_BKD: Array) -> Array:
  """x [B, L, ...] with values [B, K, ...] at positions; slots that are out of range are dropped.

  Positions of a row are distinct, as `hide` gives them.
  """
  values_BKD = values_BKD.astype(x_BLD.dtype)
  return jax.vmap(lambda x, at, v: x.at[at].set(v, mode='drop'))(x_BLD, positions_BK, values_BKD)


def sized(x_V: Array, size: int) -> Array:
  """The last axis cut, or padded with zeros, to this size: tables of one vocabulary may differ."""
  short = max(size - x_V.shape[-1], 0)
  return jnp.pad(x_V, [(0, 0)] * (x_V.ndim - 1) + [(0, short)])[..., :size]
