"""Losses: pure functions, one number per example, any float dtype in, float32 inside and out.

Shapes: B batch, C classes, E projection, K negatives. Every loss returns f32[B]; the caller takes
the mean.
"""

import jax
import jax.numpy as jnp
import optax

Array = jax.Array


def _f32(*arrays: Array) -> list[Array]:
  shapes = {a.shape for a in arrays}
  if len(shapes) > 1 or arrays[0].ndim != 2:
    # (B,) against (B, 1) would broadcast to B x B without a word.
    raise ValueError(f'expected equal shapes [B, C], got {[a.shape for a in arrays]}')
  return [a.astype(jnp.float32) for a in arrays]


def _classes(*logits: Array) -> list[Array]:
  if logits[0].shape[-1] < 2:
    raise ValueError(
      f'a softmax over {logits[0].shape[-1]} logit is constant: use squared_gap for regression'
    )
  return _f32(*logits)


def cross_entropy(logits_BC: Array, label_B: Array) -> Array:
  """-log softmax(logits)[label]: the loss on gold labels i32[B]."""
  (logits_BC,) = _classes(logits_BC)
  return optax.softmax_cross_entropy_with_integer_labels(logits_BC, label_B)


def sigmoid_cross_entropy(logits_BC: Array, label_BC: Array) -> Array:
  """Sum over labels of the binary cross-entropy; label f32[B, C] in [0, 1]."""
  logits_BC, label_BC = _f32(logits_BC, label_BC)
  return optax.sigmoid_binary_cross_entropy(logits_BC, label_BC).sum(-1)


def soft_kl(student_logits: Array, teacher_logits: Array, temperature: float = 1.0) -> Array:
  """T^2 KL(p_T || p_S), with p = softmax(logits / T): Hinton et al. (2015), arXiv:1503.02531.

  T^2 keeps the gradient's size as T grows (their section 2).
  """
  student, teacher = _classes(student_logits, teacher_logits)
  log_q_BC = jax.nn.log_softmax(student / temperature)
  log_p_BC = jax.nn.log_softmax(teacher / temperature)
  return temperature**2 * _gap(log_p_BC, log_q_BC).sum(-1)


def soft_cross_entropy(
  student_logits: Array, teacher_logits: Array, temperature: float = 1.0
) -> Array:
  """H(p_T, p_S), with p = softmax(logits / T) and no factor T^2."""
  student, teacher = _classes(student_logits, teacher_logits)
  p_BC = jax.nn.softmax(teacher / temperature)
  return -(p_BC * jax.nn.log_softmax(student / temperature)).sum(-1)


def sigmoid_kl(student_logits: Array, teacher_logits: Array, temperature: float = 1.0) -> Array:
  """T^2 KL between independent Bernoulli labels, summed over labels: soft_kl for multi-label."""
  student, teacher = _f32(student_logits, teacher_logits)
  s, t = student / temperature, teacher / temperature
  log = jax.nn.log_sigmoid
  return temperature**2 * (_gap(log(t), log(s)) + _gap(log(-t), log(-s))).sum(-1)


def _gap(log_p: Array, log_q: Array) -> Array:
  """p log(p / q) - p + q: over a distribution p and q add up to 0, and no term is negative.

  Probabilities add up to 1 but for rounding, so that without them the gradient where p is q is
  noise, of which a signed step (FGSM) would see the sign.
  """
  p = jnp.exp(log_p)
  return p * (log_p - log_q) - p + jnp.exp(log_q)


def squared_gap(student: Array, teacher: Array) -> Array:
  """Squared error, summed over outputs [B, C] (scores, or logits)."""
  student, teacher = _f32(student, teacher)
  return jnp.square(student - teacher).sum(-1)


def unit(x: Array) -> Array:
  """Rows (last axis) of L2 norm 1, in float32; 0 stays 0, with the identity as its gradient."""
  x = x.astype(jnp.float32)
  # Squares neither overflow nor vanish. The scale cancels, so it carries no gradient.
  top = jax.lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
  x = x / jnp.where(top == 0, 1.0, top)
  return x * jax.lax.rsqrt(jnp.where(top == 0, 1.0, jnp.square(x).sum(-1, keepdims=True)))


def info_nce(
  anchor_BE: Array, positive_BE: Array, negatives_BKE: Array, temperature: float
) -> Array:
  """-log(exp(s_0 / t) / sum_k exp(s_k / t)), s_0 = <anchor, positive>, s_k = <anchor, negative k>.

  van den Oord et al. (2018), arXiv:1807.03748; CoDIR's objective, arXiv:2009.14167. The positive is
  in the denominator. Plain inner products: the caller normalises (`unit`).
  """
  anchor_BE, positive_BE = _f32(anchor_BE, positive_BE)
  if negatives_BKE.ndim != 3 or negatives_BKE.shape[::2] != anchor_BE.shape:
    raise ValueError(f'negatives {negatives_BKE.shape} are not [B, K, E] of {anchor_BE.shape}')
  negatives_BKE = negatives_BKE.astype(jnp.float32)
  # t is small: what fewer bits leave behind is multiplied by 1 / t.
  positive_B = (anchor_BE * positive_BE).sum(-1)
  negative_BK = jnp.einsum('be,bke->bk', anchor_BE, negatives_BKE, precision='highest')
  score_BK1 = jnp.concatenate([positive_B[:, None], negative_BK], 1) / temperature
  return jax.nn.logsumexp(score_BK1, axis=1) - score_BK1[:, 0]


def in_batch_nce(anchor_BE: Array, positive_BE: Array, temperature: float) -> Array:
  """InfoNCE on cosines; an anchor's negatives are the other rows of `positive_BE`.

  CILDA, arXiv:2204.07674, with the teacher as anchor and the student as positive. One direction
  only. The value depends on B: log B where all rows are equal.
  """
  anchor_BE, positive_BE = (unit(x) for x in _f32(anchor_BE, positive_BE))
  score_BB = jnp.matmul(anchor_BE, positive_BE.T, precision='highest') / temperature
  return jax.nn.logsumexp(score_BB, axis=1) - jnp.diagonal(score_BB)


def bank_nce(log_p_BK1: Array, n: int, epsilon: float = 1e-7) -> Array:
  """CRD's NCE, Tian et al. (2020), arXiv:1910.10699, as the released code of CoDIR has it.

  -log(p_0 / (p_0 + c + epsilon)) - sum_k log(c / (p_k + c + epsilon)), with c = K / n.

  Args:
    log_p_BK1: [B, 1 + K], score - log Z; column 0 is the positive. Logs, since exp(score)
      overflows in half precision.
    n: rows of the bank.
  """
  if log_p_BK1.ndim != 2 or log_p_BK1.shape[1] < 2:
    raise ValueError(f'expected [B, 1 + K] with K of 1 or more, got {log_p_BK1.shape}')
  K = log_p_BK1.shape[1] - 1
  c = K / n
  odds_BK1 = log_p_BK1.astype(jnp.float32) - jnp.log(c + epsilon)
  # log(p / (p + c')) = -softplus(log c' - log p), and c / (p + c') = (c / c') * c' / (p + c').
  missed_B = jax.nn.softplus(-odds_BK1[:, 0])
  mistaken_B = jax.nn.softplus(odds_BK1[:, 1:]).sum(1)
  return missed_B + mistaken_B + K * jnp.log1p(epsilon / c)
