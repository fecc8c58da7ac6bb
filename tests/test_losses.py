"""Losses against closed forms in float64, and against what others' code gives in float64.

Two sources of numbers: the MATE-KD helper functions (huawei-noah/KD-NLP), and the CRD module that
came with CoDIR (intersun/CoDIR).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from kdjax import losses

TEMPERATURES = (0.5, 1.0, 3.0)
CONTRASTS = {
  'info_nce': lambda a, p, n: losses.info_nce(a, p, n, 0.07),
  'in_batch_nce': lambda a, p, n: losses.in_batch_nce(a, p, 0.07),
  'bank_nce': lambda a, p, n: losses.bank_nce(a, 10),
}


def _pair(rng, B=5, C=4):
  return rng.normal(0, 3, (B, C)), rng.normal(0, 3, (B, C))


def _slope(f, x, h=1e-5):
  """The gradient of f, numpy to a float, by central differences in float64."""
  slope = np.zeros_like(x)
  for i in np.ndindex(x.shape):
    up, down = x.copy(), x.copy()
    up[i] += h
    down[i] -= h
    slope[i] = (f(up) - f(down)) / (2 * h)
  return slope


def _cosines(a, b):
  return (a / np.linalg.norm(a, axis=-1, keepdims=True)) @ (
    b / np.linalg.norm(b, axis=-1, keepdims=True)
  ).T


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
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
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


# The student, the teacher, and both on a perturbed input; labels 1 and 2.
MATE_S, MATE_T = np.array([[1, 0, 0], [0.2, -0.3, 0.4]]), np.array([[2, 0.5, -1], [0, 1, 0]])
MATE_S_NEW = np.array([[0, 0.4, 0.1], [0.5, 0.5, -0.5]])
MATE_T_NEW = np.array([[0.3, 0.1, -0.2], [-1, 0.5, 1.5]])


def test_soft_losses_give_the_numbers_of_mate_kd():
  s, t = jnp.asarray(MATE_S), jnp.asarray(MATE_T)
  np.testing.assert_allclose(losses.soft_cross_entropy(s, t).mean(), 1.025532007033609, rtol=1e-6)
  np.testing.assert_allclose(losses.soft_kl(s, t).mean(), 0.227075790110865, rtol=1e-6)
  # A teacher that agrees costs its entropy: the generator of MATE-KD also maximises that.
  np.testing.assert_allclose(losses.soft_cross_entropy(t, t).mean(), 0.798456216922748, rtol=1e-6)


@pytest.mark.parametrize(
  'loss, to_teacher',
  [
    (
      losses.soft_cross_entropy,
      [[-0.08421717, 0.06885381, 0.01536336], [-0.02603386, 0.07326187, -0.04722801]],
    ),
    (
      losses.soft_kl,
      [[0.06515362, -0.02928486, -0.03586877], [-0.08708541, 0.19536498, -0.10827957]],
    ),
  ],
)
def test_soft_losses_agree_on_the_student_and_differ_on_the_teacher(loss, to_teacher):
  to_s, to_t = jax.grad(lambda s, t: loss(s, t).mean(), (0, 1))(
    jnp.asarray(MATE_S), jnp.asarray(MATE_T)
  )
  want = [[-0.10474007, 0.01832558, 0.08641449], [0.07083678, -0.18081924, 0.10998246]]
  np.testing.assert_allclose(to_s, want, atol=2e-7)
  np.testing.assert_allclose(to_t, to_teacher, atol=2e-7)


def test_the_student_loss_of_mate_kd_adds_up():
  hard = losses.cross_entropy(MATE_S, np.array([1, 2])).mean()
  adversarial = losses.soft_cross_entropy(MATE_S_NEW, MATE_T_NEW).mean()
  soft = losses.soft_cross_entropy(MATE_S, MATE_T).mean()
  np.testing.assert_allclose(hard, 1.195495458898498, rtol=1e-6)
  np.testing.assert_allclose(adversarial, 1.335861571620852, rtol=1e-6)
  np.testing.assert_allclose((hard + adversarial + soft) / 3, 1.185629679184320, rtol=1e-6)


def test_unit_rows_have_norm_one_at_any_scale(rng):
  x = rng.normal(size=(6, 5)) * np.array([1e-30, 1e-10, 1, 1e3, 1e20, 1e30])[:, None]
  want = x / np.linalg.norm(x, axis=1, keepdims=True)
  np.testing.assert_allclose(losses.unit(jnp.asarray(x)), want, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(losses.unit(jnp.asarray(x[None, 2])), want[None, 2], rtol=1e-5)


def test_the_gradient_of_unit_is_the_closed_form(rng):
  # (g - u <u, g>) / |x|; the one-hot row has its largest entry equal to its norm.
  x, g = rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
  x[0] = [0, 3, 0, 0, 0]
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  want = (g - x / norm * (x / norm * g).sum(1, keepdims=True)) / norm
  got = jax.grad(lambda x: (losses.unit(x) * g.astype(np.float32)).sum())(jnp.asarray(x))
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_zero_row_has_a_finite_gradient(rng):
  zero, other = jnp.zeros((3, 4)), jnp.asarray(rng.normal(size=(3, 4)))
  np.testing.assert_array_equal(losses.unit(zero), 0)
  np.testing.assert_array_equal(jax.grad(lambda x: losses.unit(x).sum())(zero), 1)
  for pair in ((zero, other), (other, zero), (zero, zero)):
    grads = jax.grad(lambda a, p: losses.in_batch_nce(a, p, 0.07).sum(), (0, 1))(*pair)
    assert np.isfinite(grads).all()


@pytest.mark.parametrize('t', [0.07, 1.0, 2.0])
def test_info_nce_is_the_closed_form_and_so_is_its_gradient(rng, t):
  a, p, n = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), rng.normal(size=(3, 5, 4))

  def reference(a, p, n):
    scores = np.concatenate([(a * p).sum(1)[:, None], np.einsum('be,bke->bk', a, n)], 1) / t
    return -special.log_softmax(scores, 1)[:, 0]

  np.testing.assert_allclose(losses.info_nce(a, p, n, t), reference(a, p, n), rtol=1e-4, atol=2e-5)
  got = jax.grad(lambda *x: losses.info_nce(*x, t).sum(), (0, 1, 2))(*map(jnp.asarray, (a, p, n)))
  want = (
    _slope(lambda x: reference(x, p, n).sum(), a),
    _slope(lambda x: reference(a, x, n).sum(), p),
    _slope(lambda x: reference(a, p, x).sum(), n),
  )
  for g, w in zip(got, want, strict=True):
    np.testing.assert_allclose(g, w, rtol=1e-3, atol=1e-3)


def test_info_nce_among_equals_is_the_log_of_their_number(rng):
  a, p = rng.normal(size=(2, 3, 4))
  for K in (1, 3, 100):
    same = np.repeat(p[:, None], K, 1)
    np.testing.assert_allclose(losses.info_nce(a, p, same, 0.07), np.log(K + 1), rtol=1e-4)
    np.testing.assert_allclose(losses.info_nce(0 * a, p, same, 0.07), np.log(K + 1), rtol=1e-4)


CILDA_U = np.array([[1.0, 2, 0], [0, 1, 1], [3, 0, -1]])
CILDA_V = np.array([[1.0, 1, 0], [0, 2, -1], [1, 0, 1]])


def test_in_batch_nce_asks_who_is_the_anchor():
  np.testing.assert_allclose(losses.in_batch_nce(CILDA_U, CILDA_V, 2.0).mean(), 1.076280, atol=1e-6)
  np.testing.assert_allclose(losses.in_batch_nce(CILDA_V, CILDA_U, 2.0).mean(), 1.076052, atol=1e-6)


@pytest.mark.parametrize('t', [0.07, 2.0])
def test_in_batch_nce_is_the_closed_form_and_so_is_its_gradient(rng, t):
  u, v = rng.normal(size=(2, 5, 4))

  def reference(u, v):
    return -np.diagonal(special.log_softmax(_cosines(u, v) / t, 1))

  np.testing.assert_allclose(losses.in_batch_nce(u, v, t), reference(u, v), rtol=1e-4, atol=2e-5)
  to_u, to_v = jax.grad(lambda u, v: losses.in_batch_nce(u, v, t).sum(), (0, 1))(
    jnp.asarray(u), jnp.asarray(v)
  )
  for got, want in (
    (to_u, _slope(lambda x: reference(x, v).sum(), u)),
    (to_v, _slope(lambda x: reference(u, x).sum(), v)),
  ):
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_in_batch_nce_at_its_landmarks(rng):
  row = rng.normal(size=(1, 6))
  same = np.repeat(row, 4, 0)
  np.testing.assert_allclose(losses.in_batch_nce(same, same, 2.0), np.log(4), rtol=1e-5)
  eye = np.linalg.qr(rng.normal(size=(4, 4)))[0]
  np.testing.assert_allclose(losses.in_batch_nce(eye, eye, 2.0), 1.036592, atol=1e-6)
  # 32 rows at t = 2: the first anchor's positive agrees and no other row does, then the reverse.
  anchor, sign = np.repeat(row, 32, 0), np.where(np.arange(32) == 0, 1, -1)[:, None]
  low, high = (losses.in_batch_nce(anchor, x * anchor, 2.0)[0] for x in (sign, -sign))
  np.testing.assert_allclose([low, high], [2.518040, 4.445784], atol=5e-6)
  some = losses.in_batch_nce(*rng.normal(size=(2, 32, 6)), 2.0)
  assert (some > low).all() and (some < high).all()


def test_in_batch_nce_ignores_lengths(rng):
  u, v = rng.normal(size=(2, 5, 4))
  scale = rng.uniform(0.01, 100, (5, 1))
  want = losses.in_batch_nce(u, v, 0.5)
  np.testing.assert_allclose(losses.in_batch_nce(scale * u, v, 0.5), want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(losses.in_batch_nce(u, scale * v, 0.5), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('K, n', [(1, 1000), (5, 40), (100, 67349)])
def test_bank_nce_is_the_closed_form_and_so_is_its_gradient(rng, K, n):
  log_p = rng.normal(-np.log(n), 3, (4, 1 + K))
  p, c, eps = np.exp(log_p), K / n, 1e-7
  want = -np.log(p[:, 0] / (p[:, 0] + c + eps)) - np.log(c / (p[:, 1:] + c + eps)).sum(1)
  np.testing.assert_allclose(losses.bank_nce(log_p, n), want, rtol=1e-5)
  grad = jax.grad(lambda x: losses.bank_nce(x, n).mean())(jnp.asarray(log_p))
  want = p / (p + c + eps) / 4
  want[:, 0] = -(c + eps) / (p[:, 0] + c + eps) / 4
  np.testing.assert_allclose(grad, want, rtol=1e-4)


@pytest.mark.parametrize('K, want', [(1, 1.386294), (3, 2.249341), (100, 5.610154)])
def test_bank_nce_of_an_empty_bank_depends_on_its_negatives_only(K, want):
  for n in (6, 5000):
    got = losses.bank_nce(jnp.full((2, 1 + K), -np.log(n)), n, epsilon=0.0)
    np.testing.assert_allclose(got, want, atol=2e-6)
  # What epsilon = 1e-7 costs at n = 6.
  np.testing.assert_allclose(losses.bank_nce(jnp.full((2, 1 + K), -np.log(6)), 6), want, atol=3e-6)


def test_an_epsilon_counts_where_the_noise_is_as_rare():
  n, eps = 10**7, 1e-7
  p, c = np.array([3e-7, 1e-7, 5e-7]), 2 / n
  want = -np.log(p[0] / (p[0] + c + eps)) - np.log(c / (p[1:] + c + eps)).sum()
  np.testing.assert_allclose(losses.bank_nce(np.log(p)[None], n, eps), [want], rtol=1e-5)
  assert abs(want - losses.bank_nce(np.log(p)[None], n, 0.0)[0]) > 0.1


def _waves(shape, a, b):
  return np.sin(a * np.arange(1, np.prod(shape) + 1) + b).reshape(shape)


def test_bank_nce_gives_the_numbers_of_the_released_crd_module():
  n, t = 6, 0.07
  W_s, b_s, f_s = _waves((3, 4), 0.7, 0.1), _waves((1, 3), 0.3, 0.2), _waves((2, 4), 0.37, 0.7)
  W_t, b_t, f_t = _waves((3, 5), 0.5, 0.3), _waves((1, 3), 0.9, 0.4), _waves((2, 5), 0.41, 0.8)
  bank_s, bank_t = _waves((n, 3), 1.1, 0.5), _waves((n, 3), 1.3, 0.6)
  y, index = np.array([1, 4]), np.array([[1, 0, 3, 5], [4, 2, 0, 5]])

  def scores(rows_BKE, v_BE):
    return jnp.einsum('bke,be->bk', rows_BKE.astype(np.float32), v_BE) / t

  def head(f, W, b):
    return losses.unit(f @ W.T.astype(np.float32) + b.astype(np.float32))

  def loss(f_s, log_z, bank_s, bank_t):
    v_s, v_t = head(f_s, W_s, b_s), head(jnp.asarray(f_t, jnp.float32), W_t, b_t)
    pair = scores(bank_t[index], v_s), scores(bank_s[index], v_t)
    if log_z is None:
      log_z = [
        jax.lax.stop_gradient(jax.nn.logsumexp(s) - np.log(s.size) + np.log(n)) for s in pair
      ]
    parts = [losses.bank_nce(s - z, n).mean() for s, z in zip(pair, log_z, strict=True)]
    return (parts[0] + parts[1]) / 2, (log_z, v_s, v_t)

  f_s = jnp.asarray(f_s, jnp.float32)
  (first, (log_z, v_s, v_t)), grad = jax.value_and_grad(loss, has_aux=True)(
    f_s, None, bank_s, bank_t
  )
  np.testing.assert_allclose(np.exp(log_z), [10.947238, 5679.0459], rtol=1e-5)
  np.testing.assert_allclose(first, 8.6448188, rtol=2e-6)
  want = [[0.4513, 0.3812, 0.1318, -0.1795], [2.4526, 0.6609, -1.4416, -2.8661]]
  np.testing.assert_allclose(grad, want, atol=1e-4)

  for bank, v in ((bank_s, v_s), (bank_t, v_t)):
    bank[y] = losses.unit(0.5 * bank[y] + 0.5 * np.asarray(v))
  np.testing.assert_allclose(bank_s[1], [-0.2253, -0.4226, 0.8779], atol=1e-4)
  np.testing.assert_allclose(bank_t[4], [-0.8208, 0.4859, 0.3001], atol=1e-4)
  np.testing.assert_allclose(loss(f_s, log_z, bank_s, bank_t)[0], 5.1048151, rtol=2e-6)


@pytest.mark.parametrize('score', [0.78 / 0.07, 1000.0])
@pytest.mark.parametrize('sign', [1, -1])
def test_large_scores_stay_finite_in_value_and_gradient(score, sign):
  log_p = jnp.array([[score, -score, score]]) * sign
  value, grad = jax.value_and_grad(lambda x: losses.bank_nce(x, 1000).sum())(log_p)
  assert np.isfinite(value) and np.isfinite(grad).all()
  anchor, positive = jnp.full((1, 1), score), jnp.full((1, 1), -1.0 * sign)
  value, grad = jax.value_and_grad(
    lambda a: losses.info_nce(a, positive, -positive[:, None], 0.07).sum()
  )(anchor)
  np.testing.assert_allclose(value, np.logaddexp(0, 2 * sign * score / 0.07), rtol=1e-5, atol=1e-6)
  assert np.isfinite(grad).all()


@pytest.mark.parametrize('name', CONTRASTS)
def test_contrasts_of_bfloat16_come_out_as_float32(rng, name):
  shapes = ((3, 4), (3, 4), (3, 5, 4))
  half = [jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in shapes]
  with jax.numpy_dtype_promotion('strict'):
    got = CONTRASTS[name](*half)
    want = CONTRASTS[name](*(x.astype(jnp.float32) for x in half))
  assert got.dtype == jnp.float32 and got.shape == (3,)
  np.testing.assert_array_equal(got, want)
  assert losses.unit(half[0]).dtype == jnp.float32


def test_contrasts_of_the_wrong_shape_are_refused():
  a, n = jnp.zeros((3, 4)), jnp.zeros((3, 5, 4))
  with pytest.raises(ValueError, match='equal shapes'):
    losses.in_batch_nce(a, jnp.zeros((2, 4)), 1.0)
  with pytest.raises(ValueError, match='equal shapes'):
    losses.info_nce(a, jnp.zeros((3, 1)), n, 1.0)
  for wrong in (jnp.zeros((5, 4)), jnp.zeros((1, 5, 4)), jnp.zeros((3, 5, 1))):
    with pytest.raises(ValueError, match='are not'):
      losses.info_nce(a, a, wrong, 1.0)
  for wrong in (jnp.zeros((3, 1)), jnp.zeros(3), n):
    with pytest.raises(ValueError, match='K of 1 or more'):
      losses.bank_nce(wrong, 10)
