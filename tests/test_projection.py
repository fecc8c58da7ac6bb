"""The projection without a search: always the token of brute force, whatever the table does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import augment, projection, sharding

V, D, B, L = 300, 16, 4, 12


def _table(rng, kind: str, size=(V, D)) -> np.ndarray:
  table = rng.normal(size=size)
  if kind == 'clustered':
    table = table[rng.integers(0, 20, len(table))] + 0.1 * table
  if kind == 'duplicates':
    table = table[rng.integers(0, len(table) // 3, len(table))]
  if kind == 'norms':
    table *= np.exp(rng.normal(0, 2, (len(table), 1)))
  return table.astype(np.float32)


def _queries(rng, table, allowed, shape=(B, L), mixed=True):
  """(queries, the two ids of each): mixtures, or rows and something."""
  pair = rng.choice(np.flatnonzero(allowed), (*shape, 2)).astype(np.int32)
  lam = rng.random((*shape, 1)).astype(np.float32)
  lam = np.where(rng.random(lam.shape) < 0.2, rng.integers(0, 2, lam.shape), lam)
  a, b = table[pair[..., 0]], table[pair[..., 1]]
  x = np.float32(lam) * a + np.float32(1 - lam) * b
  if not mixed:
    pair[..., 1] = pair[..., 0]
    x = a + (0.3 * rng.normal(size=a.shape) * rng.random((*shape, 1))).astype(np.float32)
  return x, pair


def _assert_nearest(ids, x, table, allowed, where=None, settled=None):
  """No allowed row is nearer than the chosen one, in float64; settled: the lowest of equals."""
  x, rows = x.astype(np.float64).reshape(-1, x.shape[-1]), table.astype(np.float64)
  asked = np.ones(len(x), bool) if where is None else np.asarray(where).reshape(-1)
  ids, x = np.asarray(ids).reshape(-1)[asked], x[asked]
  away = ((x[:, None] - rows[None]) ** 2).sum(-1)
  away[:, ~allowed] = np.inf
  chosen = np.take_along_axis(away, ids[:, None], 1)[:, 0]
  scale = (x**2).sum(-1) + (rows**2).sum(-1)[ids]
  assert (chosen - away.min(1) <= 1e-5 * scale).all()
  if settled is not None:
    same = (rows[ids][:, None] == rows[None]).all(-1) & allowed[None]
    sure = np.asarray(settled).reshape(-1)[asked]
    np.testing.assert_array_equal(ids[sure], same.argmax(1)[sure])


@functools.partial(jax.jit, static_argnames='moves')
def _project(memory, x, pair, where, table, allowed, moves=''):
  return projection.project(memory, x, pair, where, table, allowed, lambda ids: table[ids], moves)


@pytest.mark.parametrize('kind', ['random', 'clustered', 'duplicates', 'norms'])
@pytest.mark.parametrize('neighbours', [1, 4])
@pytest.mark.parametrize('mixed', [True, False])
def test_a_frozen_table_gives_the_tokens_of_brute_force(rng, kind, neighbours, mixed):
  table, allowed = _table(rng, kind), rng.random(V) < 0.8
  memory = projection.start(jnp.asarray(table), neighbours)
  settled = 0
  for _ in range(4):
    x, pair = _queries(rng, table, allowed, mixed=mixed)
    where = rng.random((B, L)) < 0.7
    ids, proved, memory = _project(memory, x, pair, where, table, allowed)
    _assert_nearest(ids, x, table, allowed, where, proved)
    assert not (np.asarray(proved) & ~where).any()
    settled += int(proved.sum())
  assert settled > 0


@pytest.mark.parametrize('kind', ['random', 'clustered', 'duplicates'])
@pytest.mark.parametrize('rate', [1e-3, 0.03, 0.3])
def test_a_table_that_is_trained_gives_the_tokens_of_brute_force(rng, kind, rate):
  """Some rows move much, some little, most not at all; two of them onto each other."""
  table, allowed = _table(rng, kind), rng.random(V) < 0.9
  memory = projection.start(jnp.asarray(table), 2, 'student')
  for step in range(12):
    x, pair = _queries(rng, table, allowed)
    where = rng.random((B, L)) < 0.9
    ids, proved, memory = _project(memory, x, pair, where, table, allowed, 'student')
    _assert_nearest(ids, x, table, allowed, where, proved)
    moved = rate * rng.normal(size=table.shape) * (rng.random((V, 1)) < 0.3)
    table = (table + moved).astype(np.float32)
    if step == 5:
      one, two = rng.choice(np.flatnonzero(allowed), 2, replace=False)
      table[one] = table[two]


def test_what_is_known_is_not_computed_again_and_the_copy_is_renewed_when_that_pays(rng):
  table, allowed = _table(rng, 'random'), np.ones(V, bool)
  memory = projection.start(jnp.asarray(table), 2, 'student')
  shares, debts, known = [], [], []
  for _ in range(60):
    x, pair = _queries(rng, table, allowed, (16, L))
    _, proved, memory = _project(memory, x, pair, np.ones((16, L), bool), table, allowed, 'student')
    shares.append(float(proved.mean()))
    debts.append(int(memory['debt']))
    known.append(int((memory['radius'] > 0).sum()))
    table = table + np.float32(0.04) * rng.normal(size=table.shape).astype(np.float32)
  assert shares[0] > 0.7  # even of the first batch: radii come before proofs
  renewed = [n for n in range(1, 60) if known[n] < known[n - 1]]
  assert renewed and all(debts[n - 1] < 0 for n in renewed)
  assert all(shares[n] > shares[n - 1] for n in renewed)
  assert len(renewed) < 20


def test_a_frozen_table_needs_no_copy_and_a_trained_one_half_of_itself():
  table = jnp.ones((V, D))
  assert projection.start(table, 4).keys() == {'near', 'radius'}
  copy = projection.start(table, 4, 'student')['student']['word']['table']
  assert copy.dtype == jnp.bfloat16 and copy.shape == (V, D)
  # Where the rules of the mesh split the role's own table, they split this.
  mesh = sharding.make_mesh(1, 4)
  laid = sharding.lay(dict(view=projection.start(table, 4, 'student')), mesh)['view']
  assert laid['student']['word']['table'].spec == jax.sharding.PartitionSpec(None, 'fsdp')
  assert laid['near'].spec == laid['radius'].spec == jax.sharding.PartitionSpec()


@settings(max_examples=40, deadline=None)
@given(
  seed=st.integers(0, 2**32 - 1),
  kind=st.sampled_from(['random', 'clustered', 'duplicates', 'norms']),
  neighbours=st.integers(1, 3),
  scale=st.sampled_from([1e-3, 1.0, 1e3]),
  few=st.booleans(),
)
def test_any_small_table_gives_the_tokens_of_brute_force(seed, kind, neighbours, scale, few):
  rng = np.random.default_rng(seed)
  table = np.float32(scale) * _table(rng, kind, (30, 3))
  allowed = rng.random(30) < (0.1 if few else 0.9)
  allowed[rng.integers(0, 30)] = True
  memory = projection.start(jnp.asarray(table), neighbours, 'student')
  for _ in range(3):
    x, pair = _queries(rng, table, allowed)
    ids, _, memory = _project(memory, x, pair, np.ones((B, L), bool), table, allowed, 'student')
    _assert_nearest(ids, x, table, allowed)
    table = table + np.float32(0.05 * scale) * rng.normal(size=table.shape).astype(np.float32)


def test_four_devices_project_as_one_does(rng):
  """Rows split over devices; the table whole, or split by width."""
  table, allowed = _table(rng, 'clustered'), rng.random(V) < 0.8
  batches = [(*_queries(rng, table, allowed, (8, L)), rng.random((8, L)) < 0.7) for _ in range(3)]
  found = []
  for sizes, split in (((1,), False), ((4,), False), ((1, 2, 2), True)):
    mesh = sharding.make_mesh(*sizes)
    space = sharding.lay(dict(student=dict(word=dict(table=table))), mesh)
    at = space['student']['word']['table'] if split else sharding.replicated(mesh)
    step = jax.jit(
      sharding.under(
        mesh, lambda m, x, p, w, t: projection.project(m, x, p, w, t, allowed, lambda i: t[i], '')
      )
    )
    memory, ids = projection.start(jnp.asarray(table), 2), []
    for batch in batches:
      new, proved, memory = step(
        memory, *jax.device_put(batch, sharding.rows(mesh)), jax.device_put(table, at)
      )
      ids.append((np.asarray(new), np.asarray(proved)))
    found.append(ids)
  for other in found[1:]:
    jax.tree.map(np.testing.assert_array_equal, other, found[0])


def _shapes(jaxpr):
  """Shapes of all that is computed, inside loops and branches too."""
  for eqn in jaxpr.eqns:
    yield from (v.aval.shape for v in eqn.outvars)
    for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, 'eqns')):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        yield from _shapes(inner)


def test_scores_of_all_queries_by_all_tokens_never_exist():
  rows, length, words = 32, 64, 9001
  table = jax.ShapeDtypeStruct((words, D), jnp.float32)
  memory = jax.eval_shape(lambda t: projection.start(t, 4, 'student'), table)
  ids = jax.ShapeDtypeStruct((rows, length, 2), jnp.int32)
  x = jax.ShapeDtypeStruct((rows, length, D), jnp.float32)
  where = jax.ShapeDtypeStruct((rows, length), bool)
  ok = jax.ShapeDtypeStruct((words,), bool)
  jaxpr = jax.make_jaxpr(lambda *a: _project(*a, moves='student'))(memory, x, ids, where, table, ok)
  shapes = set(_shapes(jaxpr.jaxpr))
  assert (words, D) in shapes and len(shapes) > 20
  assert max(np.prod(s, dtype=int) for s in shapes) < rows * length * words / 8


def test_only_queries_that_are_asked_for_are_searched(rng):
  table = _table(rng, 'random', (5000, D))
  x = rng.normal(size=(B, L, D)).astype(np.float32)
  where = rng.random((B, L)) < 0.5
  every = augment.nearest_token(x, table)
  np.testing.assert_array_equal(
    augment.nearest_token(x, table, where=jnp.asarray(where)), np.where(where, every, 0)
  )
  nobody = augment.nearest(x, table, where=jnp.zeros((B, L), bool), k=3)
  assert (np.asarray(nobody[0]) == 0).all() and (np.asarray(nobody[1]) == -np.inf).all()


@pytest.mark.parametrize('kind', ['random', 'duplicates'])
def test_the_k_nearest_come_in_order_and_no_row_twice(rng, kind):
  table = _table(rng, kind, (9001, 8))  # the last block overlaps the one before
  allowed = rng.random(9001) < 0.8
  x = rng.normal(size=(2, 5, 8)).astype(np.float32)
  bar = rng.integers(0, 9001, (2, 5, 1))
  where = np.ones((2, 5), bool)
  ids, scores = augment.nearest(x, table, jnp.asarray(allowed), 'l2', bar, jnp.asarray(where), 6)
  away = ((x[:, :, None].astype(np.float64) - table) ** 2).sum(-1)
  away[..., ~allowed] = np.inf
  np.put_along_axis(away, bar, np.inf, -1)
  np.testing.assert_allclose(
    np.take_along_axis(away, np.asarray(ids), -1), np.sort(away, -1)[..., :6], rtol=1e-4
  )
  np.testing.assert_allclose((x**2).sum(-1)[..., None] - 2 * scores, np.sort(away)[..., :6], 1e-3)
  assert all(len(set(row)) == 6 for row in np.asarray(ids).reshape(-1, 6).tolist())
