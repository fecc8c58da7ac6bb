"""Mixing, perturbing, projecting: against hand-worked tables and brute force.

The table of five rows and the numbers with it were computed with numpy, apart from this code.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import augment, losses

TABLE = np.array([(0, 0), (4, 0), (0, 3), (1.6, 1.6), (-2, 1)], np.float32)
NOT_ZERO = jnp.arange(5) > 0
MIXED = [  # pair, lambda, nearest by l2, dot, cos
  ((1, 2), 0.8, 1, 1, 1),
  ((1, 2), 0.6, 3, 1, 3),
  ((1, 2), 0.4, 3, 1, 3),
  ((1, 2), 0.2, 2, 2, 2),
  ((1, 4), 0.7, 3, 1, 1),
  ((1, 4), 0.5, 0, 1, 3),
  ((1, 4), 0.3, 0, 2, 2),
]


def _brute(queries, table, allowed, metric='l2', forbidden=None):
  queries, table = queries.astype(np.float64), table.astype(np.float64)
  if metric == 'centred':
    mean = table[allowed].mean(0)
    queries, table, metric = queries - mean, table - mean, 'cos'
  if metric == 'l2':
    score = -((queries[:, None] - table[None]) ** 2).sum(-1)
  else:
    score = queries @ table.T
    if metric == 'cos':
      norm = np.linalg.norm(table, axis=1)
      score = np.divide(score, norm, out=np.zeros_like(score), where=norm > 0)
  score[:, ~allowed] = -np.inf
  if forbidden is not None:
    np.put_along_axis(score, forbidden, -np.inf, 1)
  return score


def _assert_nearest(got, score):
  """The chosen id's score is the best, but for float32 rounding."""
  best = score.max(1)
  chosen = np.take_along_axis(score, np.asarray(got)[:, None], 1)[:, 0]
  np.testing.assert_allclose(chosen, best, rtol=1e-5, atol=1e-4)
  assert (np.asarray(got) == score.argmax(1)).mean() > 0.99


@pytest.mark.parametrize('pair, lam, l2, dot, cos', MIXED)
def test_mixtures_project_as_in_the_table(pair, lam, l2, dot, cos):
  a, b = (jnp.asarray(TABLE[i])[None, None] for i in pair)
  q = augment.mixup(a, b, lam)
  for metric, want in (('l2', l2), ('dot', dot), ('cos', cos)):
    assert augment.nearest_token(q, TABLE, metric=metric)[0, 0] == want


def test_a_forbidden_zero_row_gives_way():
  for lam, want in ((0.5, 3), (0.3, 4)):
    q = augment.mixup(jnp.asarray(TABLE[1])[None, None], jnp.asarray(TABLE[4])[None, None], lam)
    assert augment.nearest_token(q, TABLE, NOT_ZERO)[0, 0] == want


def test_every_row_projects_onto_itself(rng):
  table = rng.normal(size=(5000, 16)).astype(np.float32)
  got = augment.nearest_token(jnp.asarray(table)[None], table)
  np.testing.assert_array_equal(got[0], np.arange(5000))


@pytest.mark.parametrize('metric', augment.METRICS)
@pytest.mark.parametrize('clusters', [0, 40])
def test_projection_equals_brute_force(rng, metric, clusters):
  V, D = 9001, 24  # more than two blocks, the last one ragged
  table = rng.normal(size=(V, D))
  if clusters:
    table = table[rng.integers(0, clusters, V)] + 0.05 * rng.normal(size=(V, D))
  table = (table + 0.5).astype(np.float32)
  allowed = rng.random(V) < 0.8
  lam = rng.random(64)[:, None]
  queries = (
    lam * table[rng.integers(0, V, 64)] + (1 - lam) * table[rng.integers(0, V, 64)]
  ).astype(np.float32)
  forbidden = rng.integers(0, V, (64, 2))
  for bar in (None, forbidden):
    got = augment.nearest_token(
      jnp.asarray(queries).reshape(4, 16, D),
      table,
      jnp.asarray(allowed),
      metric,
      None if bar is None else jnp.asarray(bar).reshape(4, 16, 2),
    ).reshape(-1)
    assert allowed[got].all()
    _assert_nearest(got, _brute(queries, table, allowed, metric, bar))


def test_forbidden_tokens_are_never_chosen(rng):
  table = rng.normal(size=(5000, 8)).astype(np.float32)
  ids = rng.integers(0, 5000, (2, 30))
  got = augment.nearest_token(jnp.asarray(table)[ids], table, forbidden=jnp.asarray(ids)[..., None])
  assert (np.asarray(got) != ids).all()


def test_ties_go_to_the_lowest_id():
  table = np.array([[5.0], [1.0], [-1.0], [1.0]], np.float32)
  assert augment.nearest_token(jnp.zeros((1, 1, 1)), table)[0, 0] == 1


def test_an_unknown_metric_is_refused():
  with pytest.raises(ValueError, match='none of l2, dot, cos'):
    augment.nearest_token(jnp.zeros((1, 1, 2)), TABLE, metric='l1')


def test_mixing_keeps_the_two_point_property(rng):
  a, b = (jnp.asarray(rng.normal(size=(3, 5, 7)), jnp.float32) for _ in range(2))
  lam = jnp.asarray(rng.random((3, 5)), jnp.float32)
  q = augment.mixup(a, b, lam)
  norm = jnp.linalg.norm
  np.testing.assert_allclose(norm(q - a, axis=-1), (1 - lam) * norm(a - b, axis=-1), rtol=1e-4)
  np.testing.assert_allclose(augment.mixup(a, b, 1.0), a)
  np.testing.assert_allclose(augment.mixup(a, b, jnp.zeros(3)), b)


@pytest.mark.parametrize('epsilon, want', [(0.9, 3), (1.3, 1), (10.0, 1)])
def test_a_step_flips_a_token_beyond_its_threshold(epsilon, want):
  # The threshold of row 3 against row 1 along (1, -1) is 1.04; no other row lies that way.
  direction = jnp.array([1.0, -1.0])
  q = augment.fgsm(lambda e: e @ direction, jnp.asarray(TABLE[3])[None], epsilon)
  assert augment.nearest_token(q[None], TABLE)[0, 0] == want


def test_the_signed_gradient_of_the_divergence_is_the_hand_worked_one():
  W = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
  p = jnp.array([[0.7, 0.2, 0.1]])

  def gap(e_12):
    return losses.soft_kl(e_12 @ W.T, jnp.log(p))

  e = jnp.array([[1.6, 1.6]])
  np.testing.assert_allclose(gap(e), [0.375434], atol=1e-5)
  np.testing.assert_allclose(
    jax.grad(lambda x: gap(x).sum())(e), [[-0.106147, 0.393853]], atol=1e-5
  )
  np.testing.assert_allclose(augment.fgsm(gap, e, 0.5), [[1.1, 2.1]], atol=1e-6)
  for epsilon, want in ((0.1, 3), (1.0, 2), (2.0, 2)):
    assert augment.nearest_token(augment.fgsm(gap, e, epsilon)[None], TABLE)[0, 0] == want


def test_where_the_models_agree_nothing_moves(rng):
  e = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
  np.testing.assert_array_equal(augment.fgsm(lambda x: 0.0 * x.sum((1, 2)), e, 5.0), e)


def test_no_gradient_flows_through_a_perturbation():
  grad = jax.grad(lambda e: augment.fgsm(lambda x: (x**2).sum((1, 2)), e, 0.1).sum())
  np.testing.assert_array_equal(grad(jnp.ones((1, 2, 3))), 0)
