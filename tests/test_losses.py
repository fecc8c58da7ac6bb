"""Losses against closed forms in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from kdjax import losses

TEMPERATURES = (0.5, 1.0, 3.0)


def _pair(rng, B=5, C=4):
  return rng.normal(0, 3, (B, C)), rng.normal(0, 3, (B, C))


@pytest.mark.parametrize('T', TEMPERATURES)
def test_soft_kl_is_the_closed_form_and_so_is_its_gradient(rng, T):
  student, teacher = _pair(rng)
  p, q = special.softmax(teacher / T, 1), special.softmax(student / T, 1)
  want = T**2 * (p * np.log(p / q)).sum(1)
  np.testing.assert_allclose(losses.soft_kl(student, teacher, T), want, rtol=2e-5, atol=2e-6)
  grad = jax.grad(lambda s: losses.soft_kl(s, teacher, T).sum())(jnp.asarray(student))
  np.testing.assert_allclose(grad, T * (q - p), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('T', TEMPERATURES)
def test_soft_cross_entropy_is_the_closed_form_and_so_is_its_gradient(rng, T):
  student, teacher = _pair(rng)
  p, q = special.softmax(teacher / T, 1), special.softmax(student / T, 1)
  want = -(p * np.log(q)).sum(1)
  got = losses.soft_cross_entropy(student, teacher, T)
  np.testing.assert_allclose(got, want, rtol=2e-5)
  grad = jax.grad(lambda s: losses.soft_cross_entropy(s, teacher, T).sum())(jnp.asarray(student))
  np.testing.assert_allclose(grad, (q - p) / T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('T', TEMPERATURES)
def test_sigmoid_kl_is_a_sum_of_bernoulli_divergences(rng, T):
  student, teacher = _pair(rng)
  p, q = special.expit(teacher / T), special.expit(student / T)
  want = T**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1)
  np.testing.assert_allclose(losses.sigmoid_kl(student, teacher, T), want, rtol=2e-4, atol=2e-5)
  grad = jax.grad(lambda s: losses.sigmoid_kl(s, teacher, T).sum())(jnp.asarray(student))
  np.testing.assert_allclose(grad, T * (q - p), rtol=1e-4, atol=1e-5)


def test_two_logits_and_one_sigmoid_say_the_same():
  # softmax over (z, 0) is a sigmoid of z: the two divergences must agree.
  s, t = jnp.array([[0.3], [-2.0]]), jnp.array([[1.2], [0.5]])
  zeros = jnp.zeros_like(s)
  pair = [jnp.concatenate([x, zeros], 1) for x in (s, t)]
  np.testing.assert_allclose(losses.sigmoid_kl(s, t), losses.soft_kl(*pair), rtol=1e-5)


def test_gold_label_losses_are_the_closed_forms(rng):
  logits, _ = _pair(rng)
  label = rng.integers(0, 4, 5)
  want = -special.log_softmax(logits, 1)[np.arange(5), label]
  np.testing.assert_allclose(losses.cross_entropy(logits, label), want, rtol=2e-5, atol=1e-6)
  bits = rng.integers(0, 2, (5, 4)).astype(np.float32)
  p = special.expit(logits)
  want = -(bits * np.log(p) + (1 - bits) * np.log1p(-p)).sum(1)
  np.testing.assert_allclose(losses.sigmoid_cross_entropy(logits, bits), want, rtol=1e-4)


def test_squared_gap_sums_over_outputs(rng):
  a, b = _pair(rng)
  np.testing.assert_allclose(losses.squared_gap(a, b), ((a - b) ** 2).sum(1), rtol=1e-5)


def test_a_teacher_that_agrees_costs_nothing(rng):
  logits, _ = _pair(rng)
  for loss in (losses.soft_kl, losses.sigmoid_kl, losses.squared_gap):
    np.testing.assert_allclose(loss(logits, logits), 0, atol=1e-6)


@pytest.mark.parametrize('loss', [losses.soft_kl, losses.sigmoid_kl, losses.squared_gap])
def test_extreme_logits_stay_finite_in_value_and_gradient(loss):
  student, teacher = jnp.array([[1e3, -1e3]]), jnp.array([[-1e3, 1e3]])
  value, grad = jax.value_and_grad(lambda s: loss(s, teacher).sum())(student)
  assert np.isfinite(value) and np.isfinite(grad).all()


def test_bfloat16_comes_out_as_float32(rng):
  student, teacher = (jnp.asarray(x, jnp.bfloat16) for x in _pair(rng))
  got = losses.soft_kl(student, teacher)
  want = losses.soft_kl(student.astype(jnp.float32), teacher.astype(jnp.float32))
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, want)


def test_one_logit_is_refused_by_softmax_losses():
  one = jnp.zeros((3, 1))
  for loss in (losses.soft_kl, losses.soft_cross_entropy):
    with pytest.raises(ValueError, match='1 logit is constant'):
      loss(one, one)


def test_shapes_that_would_broadcast_are_refused():
  with pytest.raises(ValueError, match='equal shapes'):
    losses.squared_gap(jnp.zeros((3, 1)), jnp.zeros((3, 3)))
  with pytest.raises(ValueError, match='equal shapes'):
    losses.squared_gap(jnp.zeros(3), jnp.zeros(3))
