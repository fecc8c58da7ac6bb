"""CILDA: the contrast, who raises and who lowers it, and who trains the projections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import augpro_cilda, cilda, pkd
from kdjax import env as environments
from kdjax import methods, sharding, train
from tests import tiny
from tests.methods import written


def _world(kind='classes'):
  env, params = tiny.world(kind)
  parts = {k: environments.quiet(getattr(env, k)) for k in ('student', 'teacher', 'generator')}
  return env._replace(**parts), params


def _batch(rng):
  return {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}


def _want(env, params, batch, tau=2.0, pool='first'):
  """The contrast of the batch itself in float64: teacher's vectors ask, student's answer."""
  sides = []
  for name in ('teacher', 'student'):
    hidden = np.asarray(jax.jit(getattr(env, name))(params[name], batch).hidden, np.float64)[1:]
    if pool == 'first':
      x = hidden[:, :, 0]
    else:
      mask = np.asarray(batch['mask'], np.float64)[None, :, :, None]
      x = (hidden * mask).sum(2) / mask.sum(2)
    x = np.concatenate(list(x), 1)
    head = {k: np.asarray(v, np.float64) for k, v in params['heads'][name].items()}
    y = x @ head['kernel'] + head['bias']
    sides.append(y / np.linalg.norm(y, axis=1, keepdims=True))
  score = sides[0] @ sides[1].T / tau
  return -(np.diag(score) - np.log(np.exp(score).sum(1))).mean()


@pytest.mark.parametrize('pool', ['first', 'mean'])
def test_the_generator_raises_divergence_and_contrast(rng, pool):
  env, params = _world()
  c = tiny.fields('cilda', rho=1e-9, gen_gap=0.3, gen_contrast=0.7, pool=pool, dims=6)
  method, batch, key = methods.get('cilda')(c, env), _batch(rng), jax.random.key(0)
  extra, memory = method.init(key, params, None)
  params |= extra
  loss, (_, metrics) = jax.jit(method.players['generator'].loss)(params, memory, batch, key)
  want = _want(env, params, batch, pool=pool)
  np.testing.assert_allclose(metrics['contrast'], want, rtol=1e-4)
  np.testing.assert_allclose(loss, -(0.3 * metrics['found'] + 0.7 * want), rtol=1e-4)


def test_the_contrast_reaches_the_generator_through_both_models(rng):
  env, params = _world()
  c = tiny.fields('cilda', rho=0.6, gen_gap=0.0, gen_contrast=0.7, gumbel=0.5, dims=6)
  method, batch = methods.get('cilda')(c, env), _batch(rng)
  keys = jax.random.split(jax.random.key(int(rng.integers(1 << 30))))
  extra, memory = method.init(keys[0], params, None)
  params |= extra

  @jax.jit
  def got(own):
    value, (_, metrics) = method.players['generator'].loss(params | own, memory, batch, keys[1])
    return value, metrics['contrast']

  @jax.jit
  def want(own):
    now = params | own
    hots, _ = written.text(c, env, now, batch, keys[1])
    outs, sides = written.read(env, now, batch, hots), []
    for name, out in zip(('student', 'teacher'), outs, strict=True):
      x = jnp.concatenate(list(out.hidden[1:, :, 0]), 1)
      y = x @ now['heads'][name]['kernel'] + now['heads'][name]['bias'][None]
      sides.append(y / jnp.linalg.norm(y, axis=1, keepdims=True))
    score = sides[1] @ sides[0].T / c.tau  # the teacher asks
    contrast = (jnp.log(jnp.exp(score).sum(1)) - jnp.diag(score)).mean()
    return -0.7 * contrast, contrast

  own = {name: params[name] for name in ('generator', 'heads')}
  (ours, slope), (theirs, wanted) = (jax.value_and_grad(f, has_aux=True)(own) for f in (got, want))
  np.testing.assert_allclose(ours, theirs, rtol=1e-4)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(wanted['generator']))
  assert scale > 1e-4
  tiny.near(*(jax.tree.map(lambda g: g / scale, tree) for tree in (slope, wanted)), 'of contrast')


def test_the_student_may_keep_the_gold_label_of_new_text(rng):
  env, params = _world()
  c = tiny.fields('cilda', rho=1e-9, augmented=1 / 9, hard_new=2 / 9)
  method, batch, key = methods.get('cilda')(c, env), _batch(rng), jax.random.key(0)
  extra, memory = method.init(key, params, None)
  loss, (_, m) = jax.jit(method.players['student'].loss)(params | extra, memory, batch, key)
  # Nothing is hidden: both texts are one, and the weights are 1/3 + 2/9 and 1/3 + 1/9.
  np.testing.assert_allclose(m['hard_new'], m['hard'], rtol=1e-6)
  np.testing.assert_allclose(loss, 5 / 9 * m['hard'] + 4 / 9 * m['soft'], rtol=1e-5)
  assert 'contrast' not in m


OWNERS = [
  (dict(owner='generator'), {'generator'}),
  (dict(owner='student', student_contrast=0.5), {'student'}),
  (dict(owner='nobody'), set()),
]


@pytest.mark.parametrize('changes, owners', OWNERS, ids=str)
def test_the_projections_move_in_their_owners_turn_alone(rng, changes, owners):
  env, params = _world()
  method, mesh = methods.get('cilda')(tiny.fields('cilda', **changes), env), sharding.make_mesh(1)
  game = train.start(method, params, tiny.dataset(), tiny.train_fields(), 220, mesh)
  if not owners:
    assert 'heads' in game.frozen and 'heads' not in game.state.params
    return
  for name in method.players:
    before = jax.device_get(game.state.params['heads'])
    state = jax.tree.map(jnp.copy, game.state)
    batch = sharding.put(tiny.batch(rng), mesh)
    state, _ = game.steps[name](state, game.frozen, batch, game.key)
    after = jax.device_get(state.params['heads'])
    same = jax.tree.map(np.array_equal, before, after)
    assert jax.tree.all(same) == (name not in owners)
    assert name not in owners or not any(jax.tree.leaves(same))


def test_the_student_can_lower_the_contrast_where_the_generator_raises_it(rng):
  env, params = _world()
  c = tiny.fields('cilda', rho=1e-9, student_contrast=0.5, student_on='both')
  method, batch, key = methods.get('cilda')(c, env), _batch(rng), jax.random.key(0)
  extra, memory = method.init(key, params, None)
  params |= extra
  loss, (_, m) = jax.jit(method.players['student'].loss)(params, memory, batch, key)
  want = _want(env, params, batch)
  np.testing.assert_allclose([m['contrast'], m['contrast_new']], want, rtol=1e-4)
  np.testing.assert_allclose(loss, (m['hard'] + 2 * m['soft']) / 3 + want, rtol=1e-4)


def test_the_contrast_may_be_in_units_of_its_chance_level(rng):
  env, params = _world()
  losses = []
  for flag in (False, True):
    c = tiny.fields('cilda', gen_gap=0.0, norm_log_k=flag)
    method, key = methods.get('cilda')(c, env), jax.random.key(0)
    extra, memory = method.init(key, params, None)
    batch = {k: jnp.asarray(v) for k, v in tiny.batch(np.random.default_rng(0)).items()}
    losses.append(jax.jit(method.players['generator'].loss)(params | extra, memory, batch, key)[0])
  np.testing.assert_allclose(losses[1], losses[0] / np.log(8), rtol=1e-5)


def test_a_part_of_one_row_has_no_contrast_in_whatever_units(rng):
  env, params = _world()
  method, key = methods.get('cilda')(tiny.fields('cilda', norm_log_k=True), env), jax.random.key(0)
  extra, memory = method.init(key, params, None)
  row = {k: v[1:2] for k, v in _batch(rng).items()}
  loss = jax.value_and_grad(method.players['generator'].loss, has_aux=True)
  (value, (_, m)), grads = jax.jit(loss)(params | extra, memory, row, key)
  assert m['contrast'] == 0 and np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_augpro_takes_cildas_contrast_by_config(rng):
  c = augpro_cilda.get_config().method
  env, params = _world()
  method, batch, key = methods.get(c.name)(c, env), _batch(rng), jax.random.key(0)
  assert method.players['student'].owns == ('student', 'heads')
  extra, memory = method.init(key, params, None)
  loss, (_, m) = jax.jit(method.players['student'].loss)(params | extra, memory, batch, key)
  want = m['hard'] + m['soft'] + m['augmented'] + m['contrast']
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  assert m['moved'] > 0


def test_mate_kd_takes_the_contrast_beside_its_text(rng):
  c = tiny.fields('mate_kd', also=dict(name='cilda', on='both', **cilda.TERM))
  env, params = _world()
  method, batch, key = methods.get('mate_kd')(c, env), _batch(rng), jax.random.key(0)
  extra, memory = method.init(key, params, None)
  _, (_, m) = jax.jit(method.players['student'].loss)(params | extra, memory, batch, key)
  assert {'contrast', 'contrast_new', 'moved'} <= set(m)
  assert 'heads' not in method.players['generator'].owns


def test_the_student_has_one_term_its_contrast_or_that_of_also(rng):
  env, params = _world()
  also, weight = dict(name='pkd', on='text', **pkd.TERM), float(rng.uniform(0.1, 1.0))
  with pytest.raises(ValueError, match=f'method.also=pkd and .*student_contrast={weight}:'):
    methods.get('cilda')(tiny.fields('cilda', also=also, student_contrast=weight), env)
  method = methods.get('cilda')(tiny.fields('cilda', also=also), env)
  batch, key = _batch(rng), jax.random.key(0)
  extra, memory = method.init(key, params, None)
  _, (_, m) = jax.jit(method.players['student'].loss)(params | extra, memory, batch, key)
  assert 'distance' in m and 'contrast' not in m


def test_a_term_that_is_none_and_wrong_switches_are_refused_by_name():
  env, _ = _world()
  for block in (dict(name='kd', on='new'), dict(name='coddir', on='new')):
    with pytest.raises(ValueError, match='codir, cilda, pkd and rail_kd do'):
      methods.get('augpro')(tiny.fields('augpro', also=block), env)
  with pytest.raises(ValueError, match='student_contrast=0'):
    methods.get('cilda')(tiny.fields('cilda', owner='student'), env)
  for field in ('owner', 'pool', 'tau', 'dims'):
    value = 'x' if field in ('owner', 'pool') else 0
    with pytest.raises(ValueError, match=f'{field}='):
      methods.get('cilda')(tiny.fields('cilda', **{field: value}), env)
