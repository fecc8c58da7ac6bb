"""Backward-pass KD: the map between word tables, the ascent, the rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import env as environments
from kdjax import methods, net, tasks
from kdjax.methods import backward_kd, base
from tests import tiny

J = np.arange(1, 7)
TEACHER_TV = np.stack([np.sin(J), np.cos(J), np.sin(2 * J)])
ROOM = dict(first_round=1.0, cap=1e6)  # samples at once, and nothing in their way


def _same(a, b):
  return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


def _batch(rng, **kwargs):
  return {k: jnp.asarray(v) for k, v in tiny.batch(rng, **kwargs).items()}


def _called(env, params, batch, data=None, **changes):
  """(View, memory) of one call of the view, from its initial memory."""
  part = backward_kd.view(tiny.fields('backward_kd', **changes), env)
  data = data or base.Data(np.arange(40), None, 8, 100)
  _, memory = part.init(jax.random.key(0), params, data)
  return jax.jit(part.call)(params, memory, batch, None, None, jax.random.key(1))


# The map.


def test_the_map_is_exact_where_one_table_is_a_linear_image_of_the_other():
  want = np.array([[1, 2, 0], [0, -1, 0.5]])
  got = backward_kd.embedding_map(jnp.asarray(TEACHER_TV.T), jnp.asarray((want @ TEACHER_TV).T), 0)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_map_is_least_squares_with_its_residual_orthogonal_to_the_teacher():
  student_SV = np.stack([np.cos(0.5 * J), np.sin(0.5 * J)])
  got = backward_kd.embedding_map(jnp.asarray(TEACHER_TV.T), jnp.asarray(student_SV.T), 0)
  want = [[0.82873, -0.196938, 0.299799], [-0.014588, -0.478818, -0.030784]]
  np.testing.assert_allclose(got, want, atol=1e-5)
  left_SV = np.asarray(got) @ TEACHER_TV - student_SV
  np.testing.assert_allclose(np.square(left_SV).sum(), 2.771191, rtol=1e-5)
  np.testing.assert_allclose(left_SV @ TEACHER_TV.T, 0, atol=1e-5)


def test_rows_that_do_not_count_change_nothing(rng):
  table_VT, table_VS = rng.normal(size=(30, 5)), rng.normal(size=(30, 3))
  rows = np.arange(30) >= 7
  few = backward_kd.embedding_map(jnp.asarray(table_VT[7:]), jnp.asarray(table_VS[7:]), 0.1)
  all_ = backward_kd.embedding_map(
    jnp.asarray(table_VT), jnp.asarray(table_VS), 0.1, jnp.asarray(rows)
  )
  np.testing.assert_allclose(few, all_, atol=1e-5)


def test_a_ridge_is_a_share_of_the_mean_diagonal(rng):
  table_VT, table_VS = rng.normal(size=(30, 5)), rng.normal(size=(30, 3))
  square = table_VT.T @ table_VT
  want = np.linalg.inv(square + 0.3 * np.diag(square).mean() * np.eye(5)) @ table_VT.T @ table_VS
  got = backward_kd.embedding_map(jnp.asarray(table_VT), jnp.asarray(table_VS), 0.3)
  np.testing.assert_allclose(got, want.T, atol=1e-5)


# The ascent.


def _linear(rng):
  """(Env, params): logits are a matrix times the sum of a text's word embeddings, 3 and 2 wide."""

  def encode(params, e_BLE, mask, segments, key=None):
    del segments, key
    total_BE = jnp.where(mask[..., None], e_BLE, 0).sum(1)
    return net.Out(jnp.matmul(total_BE, params['out'].T, precision='highest'), e_BLE[None])

  one = net.Net(lambda p, ids: p['table'][ids], encode, lambda p: p['table'])
  made = environments.Env(one, one, tasks.KINDS['classes'], jnp.arange(tiny.VOCAB) >= tiny.SPECIAL)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
  params = dict(
    student=dict(table=draw(tiny.VOCAB, 2), out=draw(4, 2)),
    teacher=dict(table=draw(tiny.VOCAB, 3), out=draw(4, 3)),
  )
  return made, params


@pytest.mark.parametrize('changes', [dict(map='replace'), dict(map='residual')], ids=str)
def test_the_gradient_passes_both_models_and_the_map(rng, changes):
  env, params = _linear(rng)
  batch = _batch(rng)
  view, memory = _called(env, params, batch, rate=0.01, steps=1, **changes, **ROOM)
  A, B = (np.asarray(params[k]['out'], np.float64) for k in ('teacher', 'student'))
  tables = [np.asarray(params[k]['table'], np.float64) for k in ('teacher', 'student')]
  rows = np.arange(tiny.VOCAB) >= tiny.SPECIAL
  Q = np.linalg.lstsq(tables[0][rows], tables[1][rows], rcond=None)[0].T
  np.testing.assert_allclose(memory['map'], Q, atol=1e-3)
  tokens, free, mask = (np.asarray(batch[k]) for k in ('tokens', 'maskable', 'mask'))
  z_BLT = tables[0][tokens]
  own_BLS = tables[1][tokens]
  if changes['map'] == 'replace':
    own_BLS = np.where(free[..., None], z_BLT @ Q.T, own_BLS)
  parted_BC = (np.where(mask[..., None], own_BLS, 0).sum(1) @ B.T) - (
    np.where(mask[..., None], z_BLT, 0).sum(1) @ A.T
  )
  gradient_BT = 2 * parted_BC @ (B @ Q - A)
  want = z_BLT + 0.01 * np.where(free[..., None], gradient_BT[:, None], 0)
  np.testing.assert_allclose(view.teacher, want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize('kind', ['residual', 'replace', 'same'])
def test_special_tokens_and_padding_stay_bit_for_bit(rng, kind):
  env, params = tiny.world()
  if kind == 'same':
    env = env._replace(student=env.teacher)
    params['student'] = jax.tree.map(lambda x: 0.9 * x, params['teacher'])
  batch = _batch(rng)
  view, _ = _called(env, params, batch, map=kind, rate=1.0, **ROOM)
  fixed = ~np.asarray(batch['maskable'])
  for name, new in (('teacher', view.teacher), ('student', view.student)):
    own = getattr(env, name).embed(params[name], batch['tokens'])
    np.testing.assert_array_equal(np.asarray(new)[fixed], np.asarray(own)[fixed])
    assert (np.asarray(new)[~fixed] != np.asarray(own)[~fixed]).any(-1).all()
  np.testing.assert_array_equal(view.changed, np.asarray(batch['maskable']).any(1))


def test_equal_models_are_a_fixed_point(rng):
  env, params = tiny.world()
  env, params = env._replace(student=env.teacher), params | dict(student=params['teacher'])
  batch = _batch(rng)
  view, _ = _called(env, params, batch, map='same', rate=10.0, **ROOM)
  np.testing.assert_array_equal(view.teacher, env.teacher.embed(params['teacher'], batch['tokens']))
  np.testing.assert_array_equal(view.student, view.teacher)
  assert float(view.metrics['gap_before']) == float(view.metrics['moved_norm']) == 0


@pytest.mark.parametrize('kind', ['residual', 'replace'])
def test_the_samples_part_the_models_and_the_metrics_say_how_far(rng, kind):
  env, params = tiny.world()
  batch = _batch(rng)
  view, _ = _called(env, params, batch, map=kind, rate=0.05, cap=2.0, first_round=1.0)
  found = jax.device_get(view.metrics)
  assert found['rise'] > 1.2
  np.testing.assert_allclose(found['rise'], found['gap_after'] / found['gap_before'], rtol=1e-5)
  s, t = (
    np.asarray(getattr(env, n).enter(params[n], batch, getattr(view, n)).logits)
    for n in ('student', 'teacher')
  )
  np.testing.assert_allclose(found['gap_after'], np.square(s - t).sum(1).mean(), rtol=1e-3)
  moved = np.asarray(view.teacher - env.teacher.embed(params['teacher'], batch['tokens']))
  norm = np.sqrt(np.square(moved).sum((1, 2)))
  np.testing.assert_allclose(found['moved_norm'], norm.mean(), rtol=1e-4)


def test_no_sample_goes_beyond_the_cap_and_those_at_it_are_counted(rng):
  env, params = tiny.world()
  batch = _batch(rng)
  view, _ = _called(env, params, batch, rate=1e3, cap=0.5, first_round=1.0)
  moved = np.asarray(view.teacher - env.teacher.embed(params['teacher'], batch['tokens']))
  norm = np.sqrt(np.square(moved).sum((1, 2)))
  assert (norm <= 0.5 * 1.001).all()
  np.testing.assert_allclose(view.metrics['capped'], (norm > 0.499).mean())
  assert view.metrics['capped'] == np.asarray(view.changed).mean()


def test_without_displacement_the_student_reads_its_own_vectors_or_the_mapped_ones(rng):
  env, params = tiny.world()
  batch = _batch(rng)
  own = env.student.embed(params['student'], batch['tokens'])
  for kind in ('residual', 'replace'):
    view, memory = _called(env, params, batch, map=kind)  # the first round: nothing moves
    if kind == 'residual':
      np.testing.assert_array_equal(view.student, own)
    else:
      mapped = np.asarray(view.teacher) @ np.asarray(memory['map']).T
      free = np.asarray(batch['maskable'])
      np.testing.assert_allclose(np.asarray(view.student)[free], mapped[free], atol=1e-5)
    assert view.metrics['rise'] == 1 and not view.changed.any()


# Rounds.


def test_a_round_keeps_its_student_and_the_next_takes_the_present_one(rng):
  env, params = tiny.world()
  part = backward_kd.view(tiny.fields('backward_kd', round=0.4), env)  # 2 of 5 steps
  _, memory = part.init(jax.random.key(0), params, base.Data(np.arange(40), None, 8, 100))
  call = jax.jit(part.call)
  for step, begins in enumerate([True, False, True, False, True]):
    now = params | dict(student=jax.tree.map(lambda x, s=step: (1 + s) * x, params['student']))
    before = memory
    _, memory = call(now, memory, _batch(rng), None, None, jax.random.key(step))
    assert _same(memory['anchor'], now['student'] if begins else before['anchor'])
    table_VT, table_VS = env.teacher.table(params['teacher']), env.student.table(memory['anchor'])
    want = backward_kd.embedding_map(table_VT, table_VS, 1e-4, env.ordinary)
    np.testing.assert_allclose(memory['map'], want, atol=1e-4)
  assert int(memory['clock']) == 40


def test_samples_climb_against_the_rounds_student_and_are_read_by_the_present_one(rng):
  env, params = tiny.world()
  fields = tiny.fields('backward_kd', round=0.4, rate=0.05, **ROOM)  # 2 of 5 steps
  part = backward_kd.view(fields, env)
  _, memory = part.init(jax.random.key(0), params, base.Data(np.arange(40), None, 8, 100))
  batch, call, found = _batch(rng), jax.jit(part.call), []
  for scale in (1, 2, 2):
    now = jax.tree.map(lambda x, s=scale: s * x, params['student'])
    view, memory = call(params | dict(student=now), memory, batch, None, None, jax.random.key(1))
    found.append((view.teacher, view.student - env.student.embed(now, batch['tokens'])))
  first, middle, later = found
  np.testing.assert_array_equal(middle[0], first[0])
  np.testing.assert_allclose(middle[1], first[1], atol=1e-5)  # Q's share, on vectors of its own
  assert np.abs(later[0] - first[0]).max() > 1e-3  # of the next round


def test_accumulated_parts_are_one_step_of_the_clock(rng):
  env, params = tiny.world()
  part = backward_kd.view(tiny.fields('backward_kd', round=0.2), env)  # one step of 8 rows
  _, memory = part.init(jax.random.key(0), params, base.Data(np.arange(40), None, 8, 100))
  call = jax.jit(part.call)
  took = []
  for step in range(4):
    now = params | dict(student=jax.tree.map(lambda x, s=step: (1 + s) * x, params['student']))
    _, memory = call(now, memory, _batch(rng, rows=4), None, None, jax.random.key(step))
    took.append(_same(memory['anchor'], now['student']))
  assert took == [True, False, True, False]


@pytest.mark.parametrize('first, rounds', [(0.0, 0), (0.25, 0), (0.0, 1)])
def test_the_first_round_weighs_its_samples_as_the_config_says(rng, first, rounds):
  env, params = tiny.world()
  env = env._replace(student=environments.quiet(env.student))
  batch = _batch(rng)
  c = tiny.fields('backward_kd', first_round=first, augmented=2.0, hard_new=0.5)
  method = methods.get('backward_kd')(c, env)
  _, memory = method.init(jax.random.key(0), params, base.Data(np.arange(40), None, 8, 100))
  memory['view']['clock'] += rounds * memory['view']['round']

  def graded(method, memory):
    def loss(student):
      every = params | dict(student=student)
      value, (_, found) = method.players['student'].loss(every, memory, batch, jax.random.key(2))
      return value, found

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params['student'])

  (value, metrics), slope = graded(method, memory)
  share = 1.0 if rounds else first
  added = 2 * metrics['augmented'] + 0.5 * metrics['hard_new']
  np.testing.assert_allclose(value, metrics['hard'] + metrics['soft'] + share * added, rtol=1e-4)
  assert (metrics['moved_norm'] > 0) == (share > 0)
  _, plain = graded(methods.get('kd')(tiny.fields('kd'), env), ())
  gaps = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (slope, plain)), strict=True)]
  assert (max(gaps) < 1e-5) == (share == 0)


# What is refused.


def test_a_run_that_ends_within_the_first_round_is_refused_where_that_has_no_samples(rng):
  env, _ = tiny.world()
  make, epoch = methods.get('backward_kd'), int(rng.integers(8, 1000))
  share = float(rng.uniform(0.1, 1.0))
  first = round(share * epoch)
  method = make(tiny.fields('backward_kd', round=share), env)
  method.check(first + 1, epoch)
  for steps in (first, 1):
    with pytest.raises(ValueError, match=f'={share} is {first} steps and the run has {steps}:'):
      method.check(steps, epoch)
    make(tiny.fields('backward_kd', round=share, first_round=0.1), env).check(steps, epoch)


def test_one_width_is_needed_to_add_displacements_as_they_are(rng):
  env, params = tiny.world()
  with pytest.raises(ValueError, match='16 wide'):
    _called(env, params, _batch(rng), map='same')


def test_different_token_ids_are_refused_with_the_reason():
  env, _ = tiny.world(mismatch='7 of 60 token ids differ')
  with pytest.raises(ValueError, match='7 of 60 token ids differ'):
    methods.get('backward_kd')(tiny.fields('backward_kd'), env)


WRONG = [('map', 'x'), ('rate', 0.0), ('steps', 0), ('cap', 0.0), ('ridge', 0.0), ('round', 0.0)]
WRONG += [('first_round', 1.5), ('temperature', 0.0)]


@pytest.mark.parametrize('field, value', WRONG)
def test_a_switch_or_number_out_of_range_is_refused_by_name(field, value):
  env, _ = tiny.world()
  with pytest.raises(ValueError, match=f'config.method.{field}='):
    methods.get('backward_kd')(tiny.fields('backward_kd', **{field: value}), env)
