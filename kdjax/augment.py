"""Augmentations on word embeddings: mix, perturb, and back to tokens.

Shapes: B batch, L length, D embedding width, V vocabulary. All float32 inside.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array
METRICS = ('l2', 'dot', 'cos', 'centred')
_BLOCK = 4096  # table rows scored at once: 2,048 queries cost 32 MB of scores, not 250


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
  """log_softmax(logits) + Gumbel noise, whose argmax is a draw from softmax(logits)."""
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
  return jax.nn.log_softmax(logits.astype(jnp.float32)) + gumbel


def gumbel_one_hot(logits: Array, key_or_noise: Array, temperature: float = 1.0) -> Array:
  """Straight-through Gumbel-softmax, Jang et al. (2017), arXiv:1611.01144.

  Forward: the one-hot of a draw from softmax(logits), exactly 0 and 1, at any temperature.
  Backward: that of softmax((log_softmax(logits) + gumbel) / temperature).

  Args:
    logits: [..., V].
    key_or_noise: a key of jax.random.key, or uniform draws in [0, 1) shaped as `logits`.

  Returns:
    f32[..., V].
  """
  scores = _gumbel_scores(logits, key_or_noise)
  soft = jax.nn.softmax(scores / temperature)
  hard = jax.nn.one_hot(scores.argmax(-1), logits.shape[-1], dtype=jnp.float32)
  # The bracket is 0 forward, so nothing is rounded, and carries the gradient backward.
  return hard + (soft - jax.lax.stop_gradient(soft))


def gumbel_ids(logits: Array, key_or_noise: Array) -> Array:
  """The ids i32[...] that `gumbel_one_hot` picks with the same key, where no gradient is needed."""
  return _gumbel_scores(logits, key_or_noise).argmax(-1).astype(jnp.int32)


def nearest_token(
  e_BLD: Array,
  table_VD: Array,
  allowed: Array | None = None,
  metric: str = 'l2',
  forbidden: Array | None = None,
) -> Array:
  """The allowed token whose embedding is nearest, AugPro's projection; ties go to the lowest id.

  argmin_v |q - E_v|^2 = argmax_v <q, E_v> - |E_v|^2 / 2: one matrix product and an argmax, taken
  over blocks of the table so that the full score matrix never exists. Exact: the products run at
  the highest precision, since bfloat16 passes change the winner.

  Args:
    e_BLD: queries [..., D].
    table_VD: word embeddings.
    allowed: bool[V]; None allows all. At least one must be.
    metric: 'l2', 'dot', 'cos' (a zero row scores 0), or 'centred': cosine once the mean of the
      allowed rows is taken off both sides.
    forbidden: i32[..., K], ids that this query may not take (its own tokens, say).

  Returns:
    i32[...].
  """
  if metric not in METRICS:
    raise ValueError(f'metric {metric!r} is none of {", ".join(METRICS)}')
  V, D = table_VD.shape
  q_QD = e_BLD.astype(jnp.float32).reshape(-1, D)
  table_VD = table_VD.astype(jnp.float32)
  ok_V = jnp.ones(V, bool) if allowed is None else allowed
  bar_K = None if forbidden is None else forbidden.reshape(q_QD.shape[0], -1)
  if metric == 'centred':
    mean_1D = (table_VD * ok_V[:, None]).sum(0, keepdims=True) / jnp.maximum(ok_V.sum(), 1)
    table_VD, q_QD = table_VD - mean_1D, q_QD - mean_1D
  if metric in ('cos', 'centred'):
    norm_V1 = jnp.linalg.norm(table_VD, axis=1, keepdims=True)
    table_VD = table_VD / jnp.where(norm_V1 == 0, 1.0, norm_V1)
  half_V = jnp.square(table_VD).sum(1) / 2 if metric == 'l2' else jnp.zeros(V)
  penalty_V = jnp.where(ok_V, half_V, jnp.inf)

  # Blocks of the table, not of the queries: the batch stays sharded as it came.
  block = min(_BLOCK, V)
  pad = -V % block
  table_NMD = jnp.pad(table_VD, ((0, pad), (0, 0))).reshape(-1, block, D)
  penalty_NM = jnp.pad(penalty_V, (0, pad), constant_values=jnp.inf).reshape(-1, block)
  starts_N = jnp.arange(table_NMD.shape[0], dtype=jnp.int32) * block

  def better(best, piece):
    rows_MD, penalty_M, start = piece
    score_QM = jnp.matmul(q_QD, rows_MD.T, precision='highest') - penalty_M[None]
    if bar_K is not None:
      # A scatter that drops ids of other blocks.
      local_QK = bar_K - start
      local_QK = jnp.where((local_QK >= 0) & (local_QK < block), local_QK, block)
      row_Q1 = jnp.arange(score_QM.shape[0])[:, None]
      score_QM = score_QM.at[row_Q1, local_QK].set(-jnp.inf, mode='drop')
    id_Q = score_QM.argmax(1).astype(jnp.int32)
    top_Q = score_QM.max(1)
    return (
      jnp.maximum(best[0], top_Q),
      jnp.where(top_Q > best[0], id_Q + start, best[1]),
    ), None

  first = (jnp.full(q_QD.shape[0], -jnp.inf), jnp.zeros(q_QD.shape[0], jnp.int32))
  (_, id_Q), _ = jax.lax.scan(better, first, (table_NMD, penalty_NM, starts_N))
  return id_Q.reshape(e_BLD.shape[:-1])
