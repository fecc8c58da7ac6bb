"""Losses: pure functions, one number per example, any float dtype in, float32 inside and out.

Shapes: B batch, C classes. Every function returns f32[B]; the caller takes the mean.
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
  return temperature**2 * (jnp.exp(log_p_BC) * (log_p_BC - log_q_BC)).sum(-1)


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
  p_BC = jax.nn.sigmoid(t)
  on = p_BC * (jax.nn.log_sigmoid(t) - jax.nn.log_sigmoid(s))
  off = (1 - p_BC) * (jax.nn.log_sigmoid(-t) - jax.nn.log_sigmoid(-s))
  return temperature**2 * (on + off).sum(-1)


def squared_gap(student: Array, teacher: Array) -> Array:
  """Squared error, summed over outputs [B, C] (scores, or logits)."""
  student, teacher = _f32(student, teacher)
  return jnp.square(student - teacher).sum(-1)
