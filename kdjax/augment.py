"""Augmentations on word embeddings: mix, perturb, and back to tokens.

Shapes: B batch, L length, D embedding width, V vocabulary. What is searched is scored in float32;
what is mixed or moved keeps the dtype of the embeddings, which are float32 in kdjax's models.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array
METRICS = ('l2', 'dot', 'cos', 'centred')
_BLOCK = 4096  # table rows scored at once
_QUERIES = 256, 32  # queries scored at once where few are asked for: 4 MB of scores


def mixup(e_a: Array, e_b: Array, lam: Array | float) -> Array:
  """lam * e_a + (1 - lam) * e_b, Zhang et al. (2018), arXiv:1710.09412.

  Args:
    e_a, e_b: [B, L, D].
    lam: scalar, [B] (one an example) or [B, L] (one a token).
  """
  lam = jnp.asarray(lam, e_a.dtype)
  lam = lam.reshape(lam.shape + (1,) * (e_a.ndim - lam.ndim))
  return lam * e_a + (1 - lam) * e_b


def fgsm(gap_fn: Callable[[Array], Array], e_BLD: Array, epsilon: float) -> Array:
  """One signed step up the gap: e + epsilon * sign(d gap / d e), Goodfellow et al. (2015).

  Args:
    gap_fn: e [B, L, D] -> one number per example [B], examples independent of each other.
    epsilon: in units of the embedding table. Where the gradient is 0 (padding) nothing moves.

  Returns:
    [B, L, D], no gradient attached.
  """
  gradient = jax.grad(lambda e: gap_fn(e).sum())(jax.lax.stop_gradient(e_BLD))
  return jax.lax.stop_gradient(e_BLD + epsilon * jnp.sign(gradient))


def ascend(
  gap_fn: Callable[[Array], Array],
  e_BLD: Array,
  rate: float,
  steps: int,
  where: Array | None = None,
  cap: float | None = None,
  bounds: tuple[float, float] | None = None,
) -> Array:
  """Plain gradient ascent up the gap, e <- e + rate * d gap / d e: no sign, no normalisation.

  The backward pass of Jafari, Rezagholizadeh, Ghodsi (2023). Steps grow with the gap, so that the
  path can diverge: hence `cap`.

  Args:
    gap_fn: e [B, ...] -> one number per example [B], examples independent of each other.
    e_BLD: embeddings [B, L, D], or images [B, H, W, C].
    where: bool over leading axes, [B, L] say: what may move. The rest stays bit for bit.
    cap: largest L2 norm of an example's displacement; each step ends with the projection onto it.
    bounds: (low, high), to which each step clips (after the cap, which holds as long as the
      start is within bounds).

  Returns:
    f32, shaped as `e_BLD`, no gradient attached.
  """
  start = jax.lax.stop_gradient(e_BLD).astype(jnp.float32)
  free = jnp.asarray(True) if where is None else where
  free = free.reshape(free.shape + (1,) * (start.ndim - free.ndim))
  gradient = jax.grad(lambda e: gap_fn(e).sum())

  def step(_, e):
    e = e + rate * jnp.where(free, gradient(e), 0.0)
    if cap is not None:
      moved = e - start
      norm = jnp.sqrt(jnp.square(moved).sum(tuple(range(1, e.ndim)), keepdims=True))
      e = jnp.where(norm > cap, start + moved * (cap / norm), e)
    if bounds is not None:
      e = jnp.clip(e, *bounds)
    return jnp.where(free, e, start)

  return jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, step, start))


def _gumbel_scores(logits: Array, key_or_noise: Array) -> Array:
  """Logits + Gumbel noise, whose argmax is a draw from softmax(logits); the largest logit is 0."""
  if jnp.issubdtype(key_or_noise.dtype, jax.dtypes.prng_key):
    # 0 and 1 are as rare as float32 has them, and the 1e-20 below keep them finite.
    key_or_noise = jax.random.uniform(key_or_noise, logits.shape, jnp.float32)
  elif key_or_noise.shape != logits.shape:
    # A raw uint32 key comes here too.
    raise ValueError(
      f'neither jax.random.key(...) nor uniform noise of shape {logits.shape}: '
      f'{key_or_noise.dtype} {key_or_noise.shape}'
    )
  uniform = key_or_noise.astype(jnp.float32)
  gumbel = -jnp.log(-jnp.log(uniform + 1e-20) + 1e-20)
  logits = logits.astype(jnp.float32)
  # Not the log-softmax: what it subtracts is one number a row, which changes no draw, and costs an
  # exponential of each logit, and another in the backward pass.
  return logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)) + gumbel


def gumbel_draw(
  logits: Array, key_or_noise: Array, temperature: float = 1.0
) -> tuple[Array, Array]:
  """(ids i32[...], soft f32[..., V]): a draw from softmax(logits), and its relaxation.

  soft is softmax((logits + gumbel) / temperature), Jang et al. (2017),
  arXiv:1611.01144, and ids are where it is largest, at any temperature.

  Args:
    logits: [..., V].
    key_or_noise: a key of jax.random.key, or uniform draws in [0, 1) shaped as `logits`.
  """
  scores = _gumbel_scores(logits, key_or_noise)
  return scores.argmax(-1).astype(jnp.int32), jax.nn.softmax(scores / temperature)


def gumbel_one_hot(logits: Array, key_or_noise: Array, temperature: float = 1.0) -> Array:
  """Straight-through Gumbel-softmax: f32[..., V], arguments and draw of `gumbel_draw`.

  Forward: the one-hot of the draw, exactly 0 and 1. Backward: that of its relaxation.
  """
  ids, soft = gumbel_draw(logits, key_or_noise, temperature)
  hard = jax.nn.one_hot(ids, logits.shape[-1], dtype=jnp.float32)
  # The bracket is 0 forward, so nothing is rounded, and carries the gradient backward.
  return hard + (soft - jax.lax.stop_gradient(soft))


@jax.custom_vjp
def straight_through(words: Array, soft: Array, table_VE: Array) -> Array:
  """words [..., E], whose gradient soft [..., V] gets as if it had been soft @ table.

  With words = table[ids] of a `gumbel_draw`, this is gumbel_one_hot(...) @ table with a lookup in
  the place of the product. The table's own gradient is that of the lookup.
  """
  del soft, table_VE
  return words


def _forward(words, soft, table_VE):
  del soft
  return words, table_VE


def _backward(table_VE, g):
  rows = g.reshape(-1, g.shape[-1])
  return g, (rows @ table_VE.T).reshape(*g.shape[:-1], -1), jnp.zeros_like(table_VE)


straight_through.defvjp(_forward, _backward)


def sample(logits: Array, key: Array) -> Array:
  """Ids i32[...] drawn from softmax(logits [..., V]), with two random numbers each.

  A block of ids by its mass, then one of its ids by theirs: noise for each logit, as the Gumbel
  draws take it, costs more than the logits. The masses' sums are rounded, as any float32 sum.
  """
  logits, V = logits.astype(jnp.float32), logits.shape[-1]
  width = math.isqrt(V - 1) + 1
  mass = jnp.exp(logits - logits.max(-1, keepdims=True))
  mass = jnp.pad(mass, [(0, 0)] * (mass.ndim - 1) + [(0, -V % width)])
  mass = mass.reshape(*mass.shape[:-1], -1, width)

  def pick(mass, key):
    below = jnp.cumsum(mass, axis=-1)
    total = below[..., -1:]
    # Below the total, even where the product is rounded up to it: what has no mass is not drawn.
    u = jax.random.uniform(key, total.shape) * total
    return (below > jnp.minimum(u, total * (1 - 2.0**-23))).argmax(-1)

  k_block, k_id = jax.random.split(key)
  block = pick(mass.sum(-1), k_block)
  own = jnp.take_along_axis(mass, block[..., None, None], -2)[..., 0, :]
  return (block * width + pick(own, k_id)).astype(jnp.int32)


def nearest_token(
  e_BLD: Array,
  table_VD: Array,
  allowed: Array | None = None,
  metric: str = 'l2',
  forbidden: Array | None = None,
  where: Array | None = None,
) -> Array:
  """The allowed token whose embedding is nearest, AugPro's projection; ties go to the lowest id.

  Args:
    e_BLD: queries [..., D].
    table_VD: word embeddings.
    allowed: bool[V]; None allows all. At least one must be.
    metric: 'l2', 'dot', 'cos' (a zero row scores 0), or 'centred': cosine once the mean of the
      allowed rows is taken off both sides.
    forbidden: i32[..., K], ids that this query may not take (its own tokens, say).
    where: bool[...], the queries that are asked for: the time follows their number. Others get 0.

  Returns:
    i32[...].
  """
  return nearest(e_BLD, table_VD, allowed, metric, forbidden, where)[0][..., 0]


def nearest(
  e_BLD: Array,
  table_VD: Array,
  allowed: Array | None = None,
  metric: str = 'l2',
  forbidden: Array | None = None,
  where: Array | None = None,
  k: int = 1,
) -> tuple[Array, Array]:
  """(ids i32[..., k], scores f32[..., k]) of the k tokens that score highest; see nearest_token.

  argmin_v |q - E_v|^2 = argmax_v <q, E_v> - |E_v|^2 / 2, the score under l2: one matrix product,
  taken by blocks of the table and chunks of the queries, so that the full score matrix never
  exists. Exact: the products run at the highest precision, since bfloat16 passes change the winner.
  Where fewer than k may be taken, or a query is not asked for, scores are -inf and ids 0.
  """
  if metric not in METRICS:
    raise ValueError(f'metric {metric!r} is none of {", ".join(METRICS)}')
  e_BLD, table_VD = jax.lax.stop_gradient((e_BLD, table_VD))
  shape = e_BLD.shape[:-1]
  # Each device chooses among queries of its own, which lie as they came, split by the first axis.
  # More groups than it is split into are as good.
  G = math.gcd(shape[0], max(jax.sharding.get_abstract_mesh().size, 1))
  q_GND = e_BLD.astype(jnp.float32).reshape(G, -1, e_BLD.shape[-1])
  bar_GNK = jnp.zeros((*q_GND.shape[:2], 0), jnp.int32)
  if forbidden is not None:
    bar_GNK = forbidden.reshape(*q_GND.shape[:2], -1)
  ok_V = jnp.ones(len(table_VD), bool) if allowed is None else allowed

  if where is None:
    found = _search(q_GND, bar_GNK, table_VD, ok_V, metric, k)
  else:
    where_GN = where.reshape(G, -1)
    nothing = jnp.zeros((*where_GN.shape, k), jnp.int32), jnp.full((*where_GN.shape, k), -jnp.inf)

    def some():
      order_GN1 = jnp.argsort(~where_GN, axis=1)[..., None]
      queries = [jnp.take_along_axis(x, order_GN1, 1) for x in (q_GND, bar_GNK)]
      found = _search(*queries, table_VD, ok_V, metric, k, where_GN.sum(1).max())
      back_GN1 = jnp.argsort(order_GN1, axis=1)
      found = (jnp.take_along_axis(x, back_GN1, 1) for x in found)
      pairs = zip(found, nothing, strict=True)
      return tuple(jnp.where(where_GN[..., None], x, none) for x, none in pairs)

    found = jax.lax.cond(where_GN.any(), some, lambda: nothing)
  ids, scores = (x.reshape(*shape, k) for x in found)
  return ids, scores


def _best(score: Array, k: int) -> tuple[Array, Array]:
  """(places i32[..., k], scores) of the k highest along the last axis, the first of equals first.

  lax.top_k, but for the first axis, which XLA would gather from all devices for it.
  """
  found = []
  place = jnp.arange(score.shape[-1], dtype=jnp.int32).reshape((1,) * (score.ndim - 1) + (-1,))
  for _ in range(k):
    at = score.argmax(-1, keepdims=True).astype(jnp.int32)
    found.append((at, score.max(-1, keepdims=True)))
    score = jnp.where(place == at, -jnp.inf, score)
  ids, top = (jnp.concatenate(x, -1) for x in zip(*found, strict=True))
  return ids, top


def _search(q_GND, bar_GNK, table_VD, ok_V, metric: str, k: int, count: Array | None = None):
  """(ids i32[G, N, k], scores) of all queries, or of the first `count` of each group and some."""
  (_, N, D), V = q_GND.shape, len(table_VD)
  mean_1D = jnp.zeros((1, D))
  if metric == 'centred':
    total_1D = jnp.where(ok_V[:, None], table_VD.astype(jnp.float32), 0).sum(0, keepdims=True)
    mean_1D = total_1D / jnp.maximum(ok_V.sum(dtype=jnp.float32), 1)
    q_GND = q_GND - mean_1D[None]
  block = min(_BLOCK, V)
  # (queries at a time, from where, how often): large pieces, and small ones for the rest.
  pieces = [(N, 0, 1)]
  if count is not None:
    large, small = (min(size, N) for size in _QUERIES)
    done = count // large * large
    pieces = [(large, 0, count // large), (small, done, -(-(count - done) // small))]
  # Room for a last piece that is not full.
  q_GND, bar_GNK = (jnp.pad(x, ((0, 0), (0, pieces[-1][0]), (0, 0))) for x in (q_GND, bar_GNK))
  local_M = jnp.arange(block, dtype=jnp.int32)

  def at_block(best, n):
    start = jnp.minimum(n * block, V - block)  # the last one overlaps the one before
    rows_MD = jax.lax.dynamic_slice_in_dim(table_VD, start, block).astype(jnp.float32)
    if not jax.sharding.get_abstract_mesh().empty:  # once a block, not in each of the loops below
      whole = jax.sharding.PartitionSpec(None, None)
      rows_MD = jax.lax.optimization_barrier(rows_MD)
      rows_MD = jax.lax.with_sharding_constraint(rows_MD, whole)
    if metric == 'centred':
      rows_MD = rows_MD - mean_1D
    if metric in ('cos', 'centred'):
      norm_M1 = jnp.linalg.norm(rows_MD, axis=1, keepdims=True)
      rows_MD = rows_MD / jnp.where(norm_M1 == 0, 1.0, norm_M1)
    half_M = jnp.square(rows_MD).sum(1) / 2 if metric == 'l2' else jnp.zeros(block)
    usable_M = jax.lax.dynamic_slice_in_dim(ok_V, start, block) & (start + local_M >= n * block)
    penalty_M = jnp.where(usable_M, half_M, jnp.inf)

    def at_piece(m, best, size, begin):
      def piece(x):
        return jax.lax.dynamic_slice_in_dim(x, begin + m * size, size, 1)

      score_GQM = jnp.einsum('GQD,MD->GQM', piece(q_GND), rows_MD, precision='highest')
      score_GQM = score_GQM - penalty_M[None, None]
      bar_GQK = piece(bar_GNK) - start
      for i in range(bar_GQK.shape[-1]):
        score_GQM = jnp.where(bar_GQK[..., i : i + 1] == local_M[None, None], -jnp.inf, score_GQM)
      old = [piece(x) for x in best]
      if k == 1:
        top_GQ1 = score_GQM.max(-1, keepdims=True)
        id_GQ1 = score_GQM.argmax(-1, keepdims=True).astype(jnp.int32) + start
        better = top_GQ1 > old[1]  # lower ids, which came before, win ties
        new = jnp.where(better, id_GQ1, old[0]), jnp.where(better, top_GQ1, old[1])
      else:
        id_GQk, top_GQk = _best(score_GQM, k)
        ids = jnp.concatenate([old[0], id_GQk + start], -1)
        at, top = _best(jnp.concatenate([old[1], top_GQk], -1), k)
        new = jnp.take_along_axis(ids, at, -1), top
      put = jax.lax.dynamic_update_slice_in_dim
      return tuple(put(x, y, begin + m * size, 1) for x, y in zip(best, new, strict=True))

    for size, begin, times in pieces:
      at = functools.partial(at_piece, size=size, begin=begin)
      best = jax.lax.fori_loop(0, times, at, best)
    return best, None

  size = (*q_GND.shape[:2], k)
  first = jnp.zeros(size, jnp.int32), jnp.full(size, -jnp.inf)
  best, _ = jax.lax.scan(at_block, first, jnp.arange(-(-V // block), dtype=jnp.int32))
  return tuple(x[:, :N] for x in best)
