"""The token nearest to a mixture of two, mostly without a search, and exactly the same token.

Each token's few nearest tokens are remembered, with a radius that no other token lies within. For
x = (1 - t) h + t b on the segment of two rows and any other row u (Stewart's theorem),

  |x - u|^2 = (1 - t) |u - h|^2 + t |u - b|^2 - t (1 - t) |b - h|^2,

so that u, if it is a remembered neighbour of neither end, is no nearer than with |u - h| and
|u - b| at their radii. If h, b or one of their neighbours is nearer than that, it is the nearest of
all tokens. What is not proved so is searched for.

A table that is trained moves away from its radii: by the triangle inequality a radius shrinks by
what its own row has moved since, and by what the row that moved most has. Rows that moved are told
by a copy of the table; a copy in bfloat16 will do, as rounding it counts as movement. Radii are
computed for the tokens that are asked about, when they are, and again once the copy is renewed,
which is when movement has cost as many searches as it took to compute them. (The rule of renting
skis: at most about twice the searches of who knows the best moment.)

Shapes: B batch, L length, D embedding width, V vocabulary, K neighbours, C candidates.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kdjax import augment

Array = jax.Array
Memory = dict[str, Any]
_TINY = 1e-30  # the radius of a token whose neighbours are known, and that proves nothing


def start(table_VD: Array, neighbours: int, moves: str = '') -> Memory:
  """Nothing is known yet.

  moves: the role whose table it is, where that is trained: the copy lies on a mesh as the table
    does. '' for a table that stays as it is, of which no copy is needed.
  """
  V = len(table_VD)
  memory = dict(
    near=jnp.zeros((V, neighbours), jnp.int32),
    radius=jnp.zeros(V, jnp.float32),  # 0: not known
  )
  if moves:
    memory['debt'] = jnp.zeros((), jnp.int32)  # searches spent on radii, less those lost by moving
    memory[moves] = dict(word=dict(table=table_VD.astype(jnp.bfloat16)))
  return memory


def project(
  memory: Memory,
  x_BLD: Array,
  pair_BL2: Array,
  where: Array,
  table_VD: Array,
  allowed: Array,
  embed: Callable[[Array], Array],
  moves: str = '',
) -> tuple[Array, Array, Memory]:
  """The nearest allowed token under l2, what was proved, and what is known now.

  Args:
    x_BLD: near the segment of two rows; how far from it costs proof, not exactness.
    pair_BL2: the ids of those rows, allowed; twice the same for what lies around one row.
    where: bool[B, L], the positions that are asked about.
    table_VD: the rows as they are now.
    embed: ids i32[B, N] -> their rows [B, N, D].
    moves: as at the start.

  Returns:
    (ids i32[B, L], 0 where not asked for; settled bool[B, L]; memory).
  """
  V, D = table_VD.shape
  B, L = where.shape
  eps = float(jnp.finfo(jnp.float32).eps)
  # Relative error of a sum of D products: D eps / 2 at worst, and some more for what follows it.
  slack = 1 + 4 * (D + 8) * eps
  x_BLD = x_BLD.astype(jnp.float32)
  memory, loss_V = _age(memory, table_VD, allowed, moves, slack)

  def rows(ids_BLC):
    return embed(ids_BLC.reshape(B, -1)).reshape(*ids_BLC.shape, D).astype(jnp.float32)

  ends_BL2D = rows(pair_BL2)
  memory, found = _meet(memory, pair_BL2, ends_BL2D, where, table_VD, allowed, loss_V, slack)

  # The place on the segment, measured from the nearer end, and the distance from it.
  off_BL2 = _norm(x_BLD[:, :, None] - ends_BL2D)
  first_BL1 = (off_BL2[..., 0] <= off_BL2[..., 1])[..., None]
  h_BLD, b_BLD = _swap(first_BL1, ends_BL2D[:, :, 0], ends_BL2D[:, :, 1])
  span_BLD = b_BLD - h_BLD
  square_BL = jnp.square(span_BLD).sum(-1)
  t_BL = ((x_BLD - h_BLD) * span_BLD).sum(-1) / jnp.where(square_BL == 0, 1.0, square_BL)
  t_BL = jnp.clip(t_BL, 0.0, 0.5)
  aside_BL = _norm(x_BLD - h_BLD - t_BL[..., None] * span_BLD)
  aside_BL += 4 * eps * (_norm(h_BLD) + _norm(b_BLD))  # rounding of the line above

  near_BLC = memory['near'][pair_BL2].reshape(B, L, -1)
  near_BLC = jnp.concatenate([pair_BL2, near_BLC], -1)
  # Of the ends, `off` is the same number; rows of neighbours are looked up.
  away_BLC = _norm(x_BLD[:, :, None] - rows(near_BLC[..., 2:]))
  away_BLC = jnp.concatenate([off_BL2, away_BLC], -1)
  best_BL = away_BLC.min(-1)
  tie_BL1 = (best_BL * (1 + 16 * eps))[..., None]  # equal rows, summed in another order
  ids_BL = jnp.where(away_BLC <= tie_BL1, near_BLC, V).min(-1)

  def proved(radius_V):
    radius_BL2 = radius_V[pair_BL2]
    h, b = _swap(first_BL1[..., 0], radius_BL2[..., 0], radius_BL2[..., 1])
    known = (h > 0) & (b > 0)  # else their neighbours are not among the candidates
    outer = ((1 - t_BL) * h**2 + t_BL * b**2) / slack - t_BL * (1 - t_BL) * square_BL * slack
    outer = jnp.sqrt(jnp.maximum(outer, 0.0)) / slack - aside_BL * slack
    return where & known & (best_BL * slack < outer)

  settled = proved(jnp.where(memory['radius'] > 0, _less(memory['radius'], loss_V, slack), 0.0))
  searched = augment.nearest_token(x_BLD, table_VD, allowed, where=where & ~settled)
  if moves:
    lost = (proved(memory['radius']) & ~settled).sum()
    memory = memory | dict(debt=memory['debt'] + found - lost)
  return jnp.where(settled, ids_BL, searched), settled, memory


def _age(memory: Memory, table_VD, allowed, moves: str, slack: float) -> tuple[Memory, Array]:
  """(memory, its copy renewed if that pays; f32[V]: what each radius has lost since the copy)."""
  if not moves:
    return memory, jnp.zeros(len(table_VD))
  renew = memory['debt'] < 0
  copy_VD = memory[moves]['word']['table']
  copy_VD = jnp.where(renew, table_VD.astype(copy_VD.dtype), copy_VD)
  moved_V = _norm(table_VD.astype(jnp.float32) - copy_VD.astype(jnp.float32)) * slack
  memory = memory | {
    'radius': jnp.where(renew, 0.0, memory['radius']),
    'debt': jnp.where(renew, 0, memory['debt']),
    moves: dict(word=dict(table=copy_VD)),
  }
  return memory, moved_V + jnp.where(allowed, moved_V, 0.0).max()


def _meet(memory: Memory, pair_BL2, ends_BL2D, where, table_VD, allowed, loss_V, slack: float):
  """(memory with neighbours and radii of the tokens met for the first time, their number)."""
  V, D = table_VD.shape
  K = memory['near'].shape[1]
  place_BL2 = jnp.arange(pair_BL2.size, dtype=jnp.int32).reshape(pair_BL2.shape)
  new = where[..., None] & (memory['radius'][pair_BL2] == 0)
  first_V = jnp.full(V, pair_BL2.size, jnp.int32)
  first_V = first_V.at[jnp.where(new, pair_BL2, V)].min(place_BL2, mode='drop')
  new &= first_V[pair_BL2] == place_BL2  # each of them once
  near, score = augment.nearest(
    ends_BL2D, table_VD, allowed, forbidden=pair_BL2[..., None], where=new, k=K + 1
  )
  # |h - u|^2 = |h|^2 - 2 score, less what rounding may have added to it, or hidden from the search:
  # a few times D eps / 2 of the squares of |h| and of the distance.
  square = jnp.square(ends_BL2D).sum(-1)
  apart = jnp.maximum(square - 2 * score[..., K], 0.0)
  apart -= 8 * (D + 8) * float(jnp.finfo(jnp.float32).eps) * (square + apart)
  # What it was at the time of the copy, at least.
  radius = _less(jnp.sqrt(jnp.maximum(apart, 0.0)), loss_V[pair_BL2], slack)
  # Fewer other tokens than neighbours: any radius is true, and a small one does.
  radius = jnp.where(jnp.isfinite(score[..., K]), radius, _TINY)
  near = jnp.where(jnp.isfinite(score[..., :K]), near[..., :K], pair_BL2[..., None])
  to = jnp.where(new, pair_BL2, V)
  return memory | dict(
    near=memory['near'].at[to].set(near, mode='drop'),
    radius=memory['radius'].at[to].set(radius, mode='drop'),
  ), new.sum()


def _less(radius: Array, loss: Array, slack: float) -> Array:
  return jnp.maximum(radius / slack - loss, _TINY)


def _norm(x: Array) -> Array:
  return jnp.sqrt(jnp.square(x).sum(-1))


def _swap(first, a, b):
  return jnp.where(first, a, b), jnp.where(first, b, a)
