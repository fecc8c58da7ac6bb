"""Mixing, perturbing, projecting: against hand-worked tables and brute force.

The table of five rows and the numbers with it were computed with numpy, apart from this code; the
Gumbel numbers by the MATE-KD helper functions (huawei-noah/KD-NLP) in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from kdjax import augment, losses
from kdjax.methods import backward_kd, banks

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
LOGITS = np.array([[1, 2, 0, -1], [0.5, 0.5, 0.5, -3]])
UNIFORM = np.array([[0.9, 0.2, 0.5, 0.7], [0.1, 0.6, 0.3, 0.99]])


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
  """The chosen id's score is the best, but for float32 rounding; the id too, but for near ties."""
  second, best = np.sort(score, 1)[:, -2:].T
  chosen = np.take_along_axis(score, np.asarray(got)[:, None], 1)[:, 0]
  np.testing.assert_allclose(chosen, best, rtol=1e-5, atol=1e-4)
  clear = best - second > 1e-4
  assert clear.mean() > 0.7
  np.testing.assert_array_equal(np.asarray(got)[clear], score.argmax(1)[clear])


@pytest.mark.parametrize('pair, lam, l2, dot, cos', MIXED)
def test_mixtures_project_as_in_the_table(pair, lam, l2, dot, cos):
  a, b = (jnp.asarray(TABLE[i])[None, None] for i in pair)
  q = augment.mixup(a, b, lam)
  for metric, want in (('l2', l2), ('dot', dot), ('cos', cos)):
    assert augment.nearest_token(q, TABLE, metric=metric)[0, 0] == want


def test_scores_are_the_squared_distances_of_the_table():
  q = jnp.array([[[2.4, 1.2]]])  # of 1 and 2, with lambda 0.6: 7.2, 4, 9, 0.8 and 19.4
  ids, scores = augment.nearest(q, TABLE, k=5)
  np.testing.assert_array_equal(ids[0, 0], [3, 1, 0, 2, 4])
  np.testing.assert_allclose(7.2 - 2 * scores[0, 0], [0.8, 4, 7.2, 9, 19.4], rtol=1e-5)


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


@pytest.mark.parametrize('epsilon, want', [(0.9, 3), (1.03, 3), (1.05, 1), (1.3, 1), (10.0, 1)])
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


@pytest.mark.parametrize('gap', [losses.soft_kl, losses.sigmoid_kl, losses.squared_gap])
@pytest.mark.parametrize('scale', [0.1, 3.0, 30.0])
def test_where_the_models_agree_nothing_moves(rng, gap, scale):
  W = jnp.asarray(scale * rng.normal(size=(12, 5)), jnp.float32)
  e = jnp.asarray(rng.normal(size=(64, 3, 4)), jnp.float32)
  logits = lambda x: x.reshape(64, 12) @ W  # noqa: E731
  for theirs, moves in ((logits(e), False), (logits(e) + W[:1], True)):
    got = augment.fgsm(lambda x, t=theirs: gap(logits(x), t), e, 5.0)
    assert (np.asarray(got) != np.asarray(e)).any() == moves


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('metric', augment.METRICS)
def test_the_search_mixes_no_dtypes_and_rounds_nothing_but_its_input(rng, metric, dtype):
  table, queries = (jnp.asarray(rng.normal(0.3, 1, (2, n, 8)), dtype) for n in (50, 9))
  allowed = jnp.asarray(rng.random(50) < 0.8)
  with jax.numpy_dtype_promotion('strict'):
    got = augment.nearest_token(queries, table[0], allowed, metric)
  want = augment.nearest_token(
    *(x.astype(jnp.float32) for x in (queries, table[0])), allowed, metric
  )
  np.testing.assert_array_equal(got, want)


def _precisions(jaxpr) -> list:
  """Of all products of matrices in it, and in what it calls."""
  found = []
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      found.append(eqn.params['precision'])
    for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')):
      inner = getattr(inner, 'jaxpr', inner)
      found += _precisions(inner) if hasattr(inner, 'eqns') else []
  return found


HIGH = dict(
  nearest=(lambda a, b: augment.nearest_token(a[None], b), (5, 8), (30, 8)),
  bank=(lambda a, b: banks.scores(a, b, jnp.zeros((5, 3), jnp.int32), 0.07), (5, 8), (30, 8)),
  in_batch=(lambda a, b: losses.in_batch_nce(a, b, 0.07), (5, 8), (5, 8)),
  info=(lambda a, b: losses.info_nce(a, a, b, 0.07), (5, 8), (5, 6, 8)),
  map=(lambda a, b: backward_kd.embedding_map(a, b, 1e-3), (30, 8), (30, 6)),
)


@pytest.mark.parametrize('name', HIGH)
def test_products_that_decide_or_are_multiplied_keep_all_bits(name):
  """By default a TPU multiplies float32 as bfloat16: the CPU gives the same either way."""
  call, *shapes = HIGH[name]
  found = _precisions(jax.make_jaxpr(call)(*map(jnp.zeros, shapes)).jaxpr)
  assert found and all(each == (jax.lax.Precision.HIGHEST,) * 2 for each in found)


def test_no_gradient_flows_through_a_perturbation():
  grad = jax.grad(lambda e: augment.fgsm(lambda x: (x**2).sum((1, 2)), e, 0.1).sum())
  np.testing.assert_array_equal(grad(jnp.ones((1, 2, 3))), 0)


def test_a_straight_through_sample_gives_the_numbers_of_mate_kd():
  E = np.arange(0.1, 0.85, 0.1, np.float32).reshape(4, 2)
  cotangent = np.array([[1, -2], [0.5, 3]], np.float32)
  # Not the argmax of the logits, which is 1, and a tie.
  one_hot = augment.gumbel_one_hot(jnp.asarray(LOGITS), UNIFORM)
  np.testing.assert_array_equal(one_hot, np.eye(4)[[0, 3]])
  out, back = jax.vjp(lambda z: augment.gumbel_one_hot(z, UNIFORM) @ E, jnp.asarray(LOGITS))
  np.testing.assert_allclose(out, [[0.1, 0.2], [0.7, 0.8]], rtol=1e-6)
  (grad,) = back(jnp.asarray(cotangent))
  want = [
    [0.05049907, -0.01895270, -0.01473520, -0.01681118],
    [-0.09903831, -0.22636375, -0.00267503, 0.32807709],
  ]
  np.testing.assert_allclose(grad, want, atol=5e-7)
  np.testing.assert_allclose(np.asarray(grad).sum(1), 0, atol=1e-6)


def test_the_backward_pass_is_that_of_the_soft_sample():
  soft = [
    [0.78502398, 0.13969507, 0.04389761, 0.03138335],
    [0.06974257, 0.31436990, 0.13338192, 0.48250561],
  ]
  jacobian = jax.jacrev(lambda z: augment.gumbel_one_hot(z, UNIFORM))(jnp.asarray(LOGITS))
  for i, y in enumerate(np.array(soft)):
    np.testing.assert_allclose(jacobian[i, :, i], np.diag(y) - np.outer(y, y), atol=1e-6)
    np.testing.assert_array_equal(jacobian[i, :, 1 - i], 0)


@pytest.mark.parametrize('temperature', [0.3, 1.0, 4.0])
def test_the_temperature_acts_on_the_backward_pass_alone(rng, temperature):
  z, U = rng.normal(0, 2, (6, 5)), rng.uniform(0.01, 0.99, (6, 5))
  scores = special.log_softmax(z, 1) - np.log(-np.log(U))
  y = special.softmax(scores / temperature, 1)
  g = rng.normal(size=(6, 5))
  out, back = jax.vjp(lambda z: augment.gumbel_one_hot(z, U, temperature), jnp.asarray(z))
  np.testing.assert_array_equal(out, np.eye(5)[scores.argmax(1)])
  want = y * (g - (y * g).sum(1, keepdims=True)) / temperature
  np.testing.assert_allclose(back(jnp.asarray(g, jnp.float32))[0], want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_sample_is_exactly_one_hot_and_its_id_needs_no_one_hot(rng, dtype):
  logits = jnp.asarray(rng.normal(0, 3, (7, 11, 1000)), dtype)
  key = jax.random.key(rng.integers(2**31))
  with jax.numpy_dtype_promotion('strict'):
    ids, _ = augment.gumbel_draw(logits, key)
    assert ids.dtype == jnp.int32 and ids.shape == (7, 11)
    for temperature in (0.1, 1.0, 5.0):
      got = augment.gumbel_one_hot(logits, key, temperature)
      assert got.dtype == jnp.float32
      np.testing.assert_array_equal(got, np.eye(1000)[ids])
  np.testing.assert_array_equal(jax.jit(augment.gumbel_one_hot)(logits, key), np.eye(1000)[ids])


def test_samples_follow_the_softmax_of_the_logits(rng):
  z = rng.normal(0, 1, 6)
  N = 40_000
  key = jax.random.key(rng.integers(2**31))
  rows = jnp.broadcast_to(jnp.asarray(z)[None], (N, 6))
  counts = np.bincount(augment.gumbel_draw(rows, key)[0], minlength=6)
  assert stats.chisquare(counts, N * special.softmax(z)).pvalue > 1e-6
  # By way of the one-hots, at another temperature and with another key.
  other = augment.gumbel_one_hot(rows, jax.random.key(rng.integers(2**31)), 0.2)
  counts = np.asarray(other).sum(0).astype(np.float64)
  assert stats.chisquare(counts, N * special.softmax(z)).pvalue > 1e-6


def test_samples_of_two_numbers_follow_the_softmax_too(rng):
  N, V = 40_000, int(rng.integers(2, 12))
  z = rng.normal(0, 1, V)
  z[rng.integers(V)] = np.finfo(np.float32).min  # may never be drawn
  key = jax.random.key(rng.integers(2**31))
  ids = augment.sample(jnp.broadcast_to(jnp.asarray(z, jnp.bfloat16), (2, N // 2, V)), key)
  assert ids.dtype == jnp.int32 and ids.shape == (2, N // 2)
  counts = np.bincount(np.ravel(ids), minlength=V)
  want = N * special.softmax(np.asarray(jnp.asarray(z, jnp.bfloat16), np.float64))
  assert (counts[want == 0] == 0).all()
  if (want > 0).sum() > 1:
    assert stats.chisquare(counts[want > 0], want[want > 0]).pvalue > 1e-6


def test_a_sample_of_many_ids_is_one_that_has_mass(rng):
  # Of 30,522 logits a few have mass, some of them at the ends of blocks.
  has = np.unique(np.append(rng.integers(0, 30522, 20), [0, 174, 175, 30521]))
  z = np.full((500, 30522), np.finfo(np.float32).min, np.float32)
  z[:, has] = rng.normal(0, 3, has.size)
  ids = np.asarray(augment.sample(jnp.asarray(z), jax.random.key(rng.integers(2**31))))
  assert np.isin(ids, has).all() and np.unique(ids).size > 5


def test_looking_words_up_straight_through_is_one_hots_times_the_table(rng):
  key = jax.random.key(rng.integers(2**31))
  logits, table, g = (
    jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 5, 40), (40, 8), (3, 5, 8))
  )

  def looked_up(logits, table):
    ids, soft = augment.gumbel_draw(logits, key, 0.7)
    return augment.straight_through(table[ids], soft, table)

  def multiplied(logits, table):
    return augment.gumbel_one_hot(logits, key, 0.7) @ table

  (a, back), (b, wanted) = (jax.vjp(f, logits, table) for f in (looked_up, multiplied))
  np.testing.assert_allclose(a, b, rtol=1e-6)
  for x, y in zip(back(g), wanted(g), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    assert np.abs(x).max() > 0.01


def test_noise_at_the_ends_of_its_range_stays_finite():
  U = jnp.array([[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]])
  out, back = jax.vjp(lambda z: augment.gumbel_one_hot(z, U), jnp.zeros((2, 3)))
  np.testing.assert_array_equal(out, np.eye(3)[[1, 0]])
  assert np.isfinite(back(jnp.ones((2, 3)))[0]).all()


def test_noise_of_another_shape_is_refused():
  for wrong in (jnp.zeros((1, 4)), jax.random.PRNGKey(0)):
    with pytest.raises(ValueError, match='neither'):
      augment.gumbel_one_hot(jnp.asarray(LOGITS), wrong)


def _quadratic(rng, shape):
  """A gap |M x|^2 per example, and its closed-form ascent in float64."""
  size = int(np.prod(shape[1:]))
  M = rng.normal(0, 1, (size, size)) / np.sqrt(size)

  def gap(x):
    return jnp.square(x.reshape(x.shape[0], -1) @ M.T.astype(np.float32)).sum(1)

  def ascended(x, rate, steps):
    grow = np.linalg.matrix_power(np.eye(size) + 2 * rate * M.T @ M, steps)
    return (x.reshape(len(x), -1) @ grow.T).reshape(x.shape)

  return gap, ascended


def test_ascent_on_linear_maps_is_the_hand_worked_one():
  A, B = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [0.0, 0.5]])

  def gap(x_BD):
    return losses.squared_gap(x_BD @ B.T, x_BD @ A.T)

  start = jnp.ones((1, 2))
  for steps, x, D in (
    (0, 1, 4.25),
    (1, 1.425, 8.630156),
    (2, 2.030625, 17.524611),
    (3, 2.893641, 35.585913),
  ):
    got = augment.ascend(gap, start, 0.05, steps)
    np.testing.assert_allclose(got, [[1, x]], rtol=1e-6)
    np.testing.assert_allclose(gap(got), [D], rtol=1e-6)


@pytest.mark.parametrize('shape', [(3, 4, 5), (2, 3, 3, 2), (4, 6)])
def test_ascent_on_any_shape_is_the_closed_form(rng, shape):
  gap, ascended = _quadratic(rng, shape)
  x = rng.normal(size=shape)
  got = augment.ascend(gap, jnp.asarray(x), 0.1, 4)
  np.testing.assert_allclose(got, ascended(x, 0.1, 4), rtol=1e-4, atol=1e-4)


def test_ascent_stays_where_there_is_no_gap_or_no_rate(rng):
  gap, _ = _quadratic(rng, (2, 3, 4))
  e = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
  np.testing.assert_array_equal(augment.ascend(gap, e, 0.0, 3, cap=1.0), e)
  np.testing.assert_array_equal(augment.ascend(gap, e, 0.5, 0), e)
  np.testing.assert_array_equal(
    augment.ascend(lambda x: losses.squared_gap(x[:, 0], x[:, 0]), e, 5.0, 3), e
  )


def test_a_small_step_gains_the_squared_gradient(rng):
  gap, _ = _quadratic(rng, (2, 3, 4))
  e = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
  squared = np.square(jax.grad(lambda x: gap(x).sum())(e)).sum((1, 2))
  gain = gap(augment.ascend(gap, e, 1e-3, 1)) - gap(e)
  np.testing.assert_allclose(gain, 1e-3 * squared, rtol=0.05)


@pytest.mark.parametrize('options', [{}, dict(cap=0.3), dict(bounds=(-1.0, 1.0))])
def test_what_may_not_move_stays_bit_for_bit(rng, options):
  gap, _ = _quadratic(rng, (3, 4, 5))
  e = rng.normal(0, 2, (3, 4, 5)).astype(np.float32)
  e[0] = -0.0
  where = rng.random((3, 4)) < 0.5
  where[0, 0], where[1, 0], where[2, 0] = False, True, False
  got = np.asarray(augment.ascend(gap, jnp.asarray(e), 0.1, 3, jnp.asarray(where), **options))
  np.testing.assert_array_equal(got[~where].view(np.int32), e[~where].view(np.int32))
  assert (got[where] != e[where]).any(-1)[where.nonzero()[0] > 0].all()


def test_what_may_not_move_still_counts_in_the_gap(rng):
  # The gap of two tokens is their product: the free one moves by the value of the other.
  e = jnp.asarray(rng.normal(size=(2, 2, 3)), jnp.float32)
  where = jnp.array([[True, False], [False, True]])
  got = augment.ascend(lambda x: (x[:, 0] * x[:, 1]).sum(1), e, 0.1, 2, where)
  np.testing.assert_allclose(got[0, 0], e[0, 0] + 0.2 * e[0, 1], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(got[1, 1], e[1, 1] + 0.2 * e[1, 0], rtol=1e-5, atol=1e-6)


def test_the_cap_bounds_each_examples_displacement(rng):
  gap, ascended = _quadratic(rng, (4, 3, 5))
  x = rng.normal(size=(4, 3, 5))
  x[3] *= 1e-5  # one that never reaches the cap
  got = augment.ascend(gap, jnp.asarray(x), 0.5, 3, cap=0.25)
  norm = np.sqrt(np.square(got - x.astype(np.float32)).sum((1, 2)))
  np.testing.assert_allclose(norm[:3], 0.25, rtol=1e-4)
  np.testing.assert_allclose(got[3], ascended(x, 0.5, 3)[3], rtol=1e-3, atol=1e-8)
  # One step: the free one, cut to length.
  free = ascended(x, 0.5, 1) - x
  length = np.sqrt(np.square(free).sum((1, 2), keepdims=True))
  want = x + free * np.minimum(1, 0.25 / length)
  np.testing.assert_allclose(augment.ascend(gap, jnp.asarray(x), 0.5, 1, cap=0.25), want, rtol=1e-4)


def test_the_cap_is_spent_on_what_may_move(rng):
  # Gradients equal everywhere: half of an example's displacement would be lost on fixed tokens.
  e = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
  where = jnp.array([[True, False, True, False], [False, False, False, True]])
  got = augment.ascend(lambda x: x.sum((1, 2)), e, 1.0, 3, where, cap=0.5)
  norm = np.sqrt(np.square(got - e).sum((1, 2)))
  np.testing.assert_allclose(norm, 0.5, rtol=1e-5)


def test_a_cap_is_on_all_of_an_image(rng):
  gap, _ = _quadratic(rng, (2, 4, 4, 3))
  image = jnp.asarray(rng.random((2, 4, 4, 3)), jnp.float32)
  where = jnp.asarray(rng.random((2, 4)) < 0.5).at[:, 0].set(True)
  got = augment.ascend(gap, image, 2.0, 2, where, cap=0.1, bounds=(0.0, 1.0))
  assert (jnp.sqrt(jnp.square(got - image).sum((1, 2, 3))) <= 0.1 * (1 + 1e-5)).all()
  np.testing.assert_array_equal(got[~where], image[~where])


def test_bounds_hold_after_each_step():
  # x grows by x: 0.4, 0.8, then 1 instead of 1.6, then 1 again; the other one falls to -0.5.
  e = jnp.array([[0.4, -0.3]])
  got = [
    augment.ascend(lambda x: jnp.square(x).sum(1), e, 0.5, n, bounds=(-0.5, 1.0)) for n in (1, 2, 3)
  ]
  np.testing.assert_allclose(got, [[[0.8, -0.5]], [[1, -0.5]], [[1, -0.5]]], rtol=1e-6)


def test_ascent_is_float32_and_has_no_gradient(rng):
  e = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.bfloat16)

  def moved(e, scale):
    return augment.ascend(lambda x: scale * jnp.square(x).sum((1, 2)), e, 0.1, 2, cap=1.0)

  with jax.numpy_dtype_promotion('strict'):
    assert moved(e, 1.0).dtype == jnp.float32
  grads = jax.grad(lambda e, s: moved(e, s).sum(), (0, 1))(e.astype(jnp.float32), 1.0)
  for grad in grads:
    np.testing.assert_array_equal(grad, 0)
  np.testing.assert_array_equal(jax.jit(moved)(e, 1.0).shape, e.shape)
