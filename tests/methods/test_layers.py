"""Intermediate layers: which, of what tokens; PKD and RAIL-KD, which follow them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import pkd as pkd_shipped
from configs import pkd_tokens as tokens_shipped
from configs import rail_kd as rail_shipped
from kdjax import checkpoint, methods, net, sharding, train
from kdjax import env as environments
from kdjax.methods import base, kd, layers, pkd, rail_kd
from tests import tiny

CHOICES = [
  ('all', 4, 0, (1, 2, 3, 4)),
  ('odd', 12, 0, (1, 3, 5, 7, 9, 11)),
  ('odd', 6, 0, (1, 3, 5)),
  ('every', 6, 2, (3, 6)),
  ('every', 12, 5, (2, 4, 7, 9, 12)),
  ('every', 6, 0, (2, 4, 6)),
  ('every', 1, 0, (1,)),
  ('skip', 12, 5, (2, 4, 6, 8, 10)),  # PKD, BERT-base to six layers
  ('last', 12, 5, (7, 8, 9, 10, 11)),
  ('skip', 12, 2, (4, 8)),  # to three
  ('last', 12, 2, (10, 11)),
  ('skip', 6, 1, (3,)),  # MiniLM to two
  ('skip', 12, 0, (2, 4, 6, 8, 10)),
  ('last', 6, 0, (4, 5)),
  ('skip', 2, 0, (1,)),
  ('skip', 1, 1, (1,)),
  ('last', 1, 0, (1,)),
  ('last', 6, 5, (1, 2, 3, 4, 5)),
  ('2,4, 6', 6, 0, (2, 4, 6)),
  ('3', 3, 0, (3,)),
]


@pytest.mark.parametrize('spec, blocks, count, want', CHOICES)
def test_layers_are_chosen_by_their_formula(spec, blocks, count, want):
  assert layers.choose(spec, blocks, count) == want


@pytest.mark.parametrize('spec', ['', 'x', '0', '7', '1,1', '1;2', '-1', '2,', 'skip,1'])
def test_layers_that_are_not_there_are_refused_by_field(spec):
  with pytest.raises(ValueError, match=r'config\.method\.teacher_layers='):
    layers.choose(spec, 6, field='teacher_layers')


@pytest.mark.parametrize('spec', ['skip', 'last'])
def test_more_layers_than_there_are_below_the_last_are_refused(spec):
  with pytest.raises(ValueError, match='6 layers below the last of 6'):
    layers.choose(spec, 6, 6)


@pytest.mark.parametrize('view', ['', 'teacher_'])
def test_a_mean_is_of_the_models_own_real_tokens_and_padding_may_hold_anything(rng, view):
  model = dataclasses.replace(net.split(tiny.model(1, 16, 3, 0))[0], view=view)
  mask = np.asarray([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], bool)
  batch = {view + 'mask': jnp.asarray(mask)}
  hidden = rng.normal(size=(4, 3, 4, 5)).astype(np.float32)
  want = [np.stack([h[b][mask[b]].mean(0) for b in range(3)]) for h in hidden]
  hidden[:, ~mask] = np.nan
  got = layers.pooled(model, batch, jnp.asarray(hidden), (3, 1), 'mean')
  np.testing.assert_allclose(got, np.concatenate([want[3], want[1]], 1), rtol=1e-5, atol=1e-6)
  first = layers.pooled(model, batch, jnp.asarray(hidden), (0, 2), 'first')
  np.testing.assert_array_equal(first, np.concatenate([hidden[0, :, 0], hidden[2, :, 0]], 1))
  grad = jax.grad(lambda h: layers.pooled(model, batch, h, (2,), 'mean').sum())(jnp.asarray(hidden))
  np.testing.assert_array_equal(grad[:, ~mask], 0)
  assert layers.states(model, batch, jnp.asarray(hidden, jnp.bfloat16), 'mean').dtype == np.float32


@pytest.mark.parametrize('view', ['', 'teacher_'])
def test_sizes_are_those_of_the_model(view):
  model, params = net.split(tiny.model(3, 24, 2, 0))
  assert layers.sizes(dataclasses.replace(model, view=view), params) == (3, 24)


def test_a_head_is_a_float32_linear_layer(rng):
  head = layers.head(jax.random.key(0), 400, 30)
  assert head['kernel'].shape == (400, 30) and head['bias'].shape == (30,)
  assert 0.0495 < np.abs(head['kernel']).max() <= 0.05  # 1 / sqrt(400)
  x = rng.normal(size=(7, 400)).astype(np.float32)
  want = x.astype(np.float64) @ np.asarray(head['kernel'], np.float64) + np.asarray(head['bias'])
  np.testing.assert_allclose(layers.project(head, x), want, rtol=1e-4, atol=1e-5)
  assert layers.project(head, x.astype(jnp.bfloat16)).dtype == np.float32


def test_a_distance_has_a_finite_gradient_where_it_is_zero(rng):
  a = rng.normal(size=(3, 4)).astype(np.float32)
  b = a.copy()
  b[0] += [3, 0, 4, 0]
  np.testing.assert_allclose(layers.distance(jnp.asarray(a), b), [5, 0, 0], atol=1e-5)
  grad = jax.grad(lambda a: layers.distance(a, b).sum())(jnp.asarray(a))
  np.testing.assert_allclose(grad[0], [-0.6, 0, -0.8, 0], atol=1e-5)
  np.testing.assert_array_equal(grad[1:], 0)


# PKD and RAIL-KD.

DATA = base.Data(np.arange(40), np.zeros(40, np.int32), 8, 100)
TERMS = {'pkd': (pkd, pkd_shipped.TERM), 'rail_kd': (rail_kd, rail_shipped.TERM)}


def _sized(student=(2, 16), teacher=(5, 24)):
  """A tiny world of these blocks and widths, without dropout."""
  env, params = tiny.world()
  ours, params['student'] = net.split(tiny.model(*student, 3, 2))
  theirs, params['teacher'] = net.split(tiny.model(*teacher, 3, 1))
  return env._replace(student=environments.quiet(ours), teacher=theirs), params


def _term(name, env, params, **changes):
  module, fields = TERMS[name]
  term = module.term(ConfigDict(fields | changes), env)
  extra, memory = term.init(jax.random.key(1), params, DATA)

  @jax.jit
  def call(params, memory, batch):
    outs = env.student(params['student'], batch), env.teacher(params['teacher'], batch)
    return term.call(params, memory, batch, *outs, jax.random.key(0)), outs

  return call, params | extra, memory


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize(
  'student, changes, pairs',
  [
    ((3, 24), {}, [(1, 1), (2, 3)]),  # 5 / 3, 10 / 3
    ((3, 24), dict(teacher_layers='last', pool='mean'), [(1, 3), (2, 4)]),
    ((3, 16), {}, [(1, 1), (2, 3)]),
    ((1, 16), {}, [(1, 2)]),
    ((2, 24), dict(student_layers='all', teacher_layers='5,1'), [(1, 5), (2, 1)]),
    ((2, 24), tokens_shipped.TERM | dict(weight=0.3), [(1, 2), (2, 5)]),  # 5 / 2, 10 / 2
    ((3, 16), tokens_shipped.TERM | dict(weight=0.3), [(1, 1), (2, 3), (3, 5)]),
  ],
  ids=str,
)
def test_pkd_is_its_formula(rng, student, changes, pairs):
  env, params = _sized(student)
  call, params, memory = _term('pkd', env, params, **(dict(weight=0.3) | changes))
  batch = tiny.batch(rng)
  (value, after, metrics), outs = call(params, memory, batch)
  assert after == memory == ()
  heads, want = params['pkd_heads'], []
  assert sorted(heads) == ([] if student[1] == 24 else [str(l) for l, _ in pairs])
  for l, m in pairs:
    if changes.get('pool') == 'tokens':
      x, y = np.asarray(outs[0].hidden[l]), np.asarray(outs[1].hidden[m])
      if heads:
        x = x @ np.asarray(heads[str(l)]['kernel']) + np.asarray(heads[str(l)]['bias'])
      gaps = np.square(_unit(x) - _unit(y)).sum(-1)
      want.append(
        np.mean([gap[mask].mean() for gap, mask in zip(gaps, batch['mask'], strict=True)])
      )
      continue
    if 'pool' in changes:
      x, y = (
        np.stack([h[b][batch['mask'][b]].mean(0) for b in range(8)])
        for h in (np.asarray(outs[0].hidden[l]), np.asarray(outs[1].hidden[m]))
      )
    else:
      x, y = np.asarray(outs[0].hidden[l][:, 0]), np.asarray(outs[1].hidden[m][:, 0])
    if heads:
      x = x @ np.asarray(heads[str(l)]['kernel']) + np.asarray(heads[str(l)]['bias'])
    want.append(np.square(_unit(x) - _unit(y)).sum(1).mean())
  np.testing.assert_allclose(metrics['distance'], np.mean(want), rtol=1e-4)
  np.testing.assert_allclose(value, 0.3 * np.mean(want), rtol=1e-4)


def test_padding_is_no_part_of_pkd_of_every_token(rng):
  env, _ = _sized((2, 24))
  batch = tiny.batch(rng)
  batch['mask'][0, 1:] = False
  mask = np.asarray(batch['mask'])
  term = pkd.term(ConfigDict(tokens_shipped.TERM), env)
  student, teacher = (rng.normal(size=(n, *mask.shape, 24)).astype(np.float32) for n in (3, 6))

  @jax.value_and_grad
  def value(hidden):
    outs = net.Out(None, hidden), net.Out(None, jnp.asarray(teacher))
    return term.call(dict(pkd_heads={}), (), batch, *outs, None)[0]

  want, want_grad = value(jnp.asarray(student))
  for hidden in (student, teacher):
    hidden[:, ~mask] = np.nan
  got, grad = value(jnp.asarray(student))
  assert got == want and np.isfinite(got)
  np.testing.assert_array_equal(grad, want_grad)
  assert (np.asarray(grad)[:, ~mask] == 0).all()


def test_pkd_of_every_token_needs_one_tokenizer():
  env, _ = _sized((2, 24))
  env = env._replace(teacher=dataclasses.replace(env.teacher, view='teacher_'))
  for pool in layers.POOLS:
    pkd.term(ConfigDict(pkd_shipped.TERM | dict(pool=pool)), env)
  with pytest.raises(ValueError, match=r"pool='tokens' pairs the tokens of one text.*take 'mean'"):
    pkd.term(ConfigDict(tokens_shipped.TERM), env)


@pytest.mark.parametrize('kind', ['concat', 'layer'])
@pytest.mark.parametrize('pool', ['mean', 'first'])
def test_rail_kd_is_its_formula(rng, kind, pool):
  env, params = _sized()
  call, params, memory = _term('rail_kd', env, params, weight=0.3, kind=kind, pool=pool)
  batch = tiny.batch(rng)
  drawn = np.asarray(rail_kd.draw(memory['seed'], 0, 5, 2))
  (value, after, metrics), outs = call(params, memory, batch)

  def states(out, l):
    h = np.asarray(out.hidden[l])
    if pool == 'first':
      return h[:, 0]
    return np.stack([h[b][batch['mask'][b]].mean(0) for b in range(8)])

  ours, theirs = [states(outs[0], l) for l in (1, 2)], [states(outs[1], l) for l in drawn]
  if kind == 'concat':
    ours, theirs = [np.concatenate(ours, 1)], [np.concatenate(theirs, 1)]
  want = []
  for i, (x, y) in enumerate(zip(ours, theirs, strict=True)):
    head = {k: jax.tree.map(np.asarray, h[str(i)]) for k, h in params['rail_heads'].items()}
    u, v = (
      _unit(z @ head[k]['kernel'] + head[k]['bias']) for k, z in (('student', x), ('teacher', y))
    )
    want.append(np.linalg.norm(u - v, axis=1).mean())
  np.testing.assert_allclose(value, 0.3 * np.mean(want), rtol=1e-4)
  np.testing.assert_allclose(metrics['distance'], np.mean(want), rtol=1e-4)
  np.testing.assert_allclose(metrics['layer'], drawn.mean(), rtol=1e-6)
  assert 0 < metrics['spread'] < 1
  assert int(after['seen']) == 8


def test_draws_are_distinct_layers_in_order_and_all_come_up():
  draws = np.stack([np.asarray(rail_kd.draw(np.uint32(9), e, 6, 2)) for e in range(300)])
  assert (draws[:, 0] < draws[:, 1]).all() and draws.min() == 1 and draws.max() == 6
  count = np.unique(draws, axis=0, return_counts=True)[1]
  assert len(count) == 15 and ((count - 20) ** 2 / 20).sum() < 50  # 14 degrees of freedom
  np.testing.assert_array_equal(rail_kd.draw(np.uint32(9), 3, 4, 4), [1, 2, 3, 4])
  again = np.stack([np.asarray(rail_kd.draw(np.uint32(9), e, 6, 2)) for e in range(20)])
  np.testing.assert_array_equal(again, draws[:20])
  other = np.stack([np.asarray(rail_kd.draw(np.uint32(10), e, 6, 2)) for e in range(20)])
  assert (other != again).any()


def _layer_log(accumulate=1, **changes):
  """The metric `layer` over 15 steps, five an epoch, and the seed of the draws."""
  env, params = _sized((1, 16), (5, 24))
  method = methods.get('rail_kd')(tiny.fields('rail_kd', **changes), env)
  mesh = sharding.make_mesh(1)
  fields = tiny.train_fields(accumulate=accumulate)
  game = train.start(method, params, tiny.dataset(), fields, 15, mesh)
  rng, state, found = np.random.default_rng(0), game.state, []
  seed = jax.device_get(state.memory['term']['seed'])
  for _ in range(15):
    batch = sharding.put(tiny.batch(rng), mesh)
    state, metrics = game.steps['student'](state, game.frozen, batch, game.key)
    found.append(float(metrics['student/layer']))
  return found, seed


@pytest.mark.parametrize('accumulate', [1, 2])
def test_layers_are_drawn_anew_every_epoch_and_stay_through_it(accumulate):
  found, seed = _layer_log(accumulate)
  want = [float(rail_kd.draw(seed, epoch, 5, 1)[0]) for epoch in range(3)]
  np.testing.assert_array_equal(found, np.repeat(want, 5))


def test_layers_may_be_drawn_anew_every_step():
  found, seed = _layer_log(every='step')
  want = [float(rail_kd.draw(seed, step, 5, 1)[0]) for step in range(15)]
  np.testing.assert_array_equal(found, want)
  assert len(set(found)) > 1


@pytest.mark.parametrize('name', TERMS)
def test_equal_states_have_a_finite_gradient_and_no_distance(rng, name):
  # A student that is its teacher, under the same head.
  env, params = _sized((2, 16), (2, 16))
  env, batch = env._replace(student=env.teacher), tiny.batch(rng)
  call, params, memory = _term(name, env, params | dict(student=params['teacher']))
  if name == 'rail_kd':
    params['rail_heads']['student'] = params['rail_heads']['teacher']
  loss = lambda student: call(params | dict(student=student), memory, batch)[0][0]  # noqa: E731
  value, grads = jax.value_and_grad(loss)(params['student'])
  np.testing.assert_allclose(value, 0, atol=1e-5)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


@pytest.mark.parametrize('name', TERMS)
def test_a_student_deeper_than_its_teacher_is_refused(name):
  env, params = _sized((3, 16), (2, 24))
  with pytest.raises(ValueError, match='student has 3 blocks, the teacher 2'):
    _term(name, env, params)


def test_layers_of_pkd_go_in_pairs():
  env, params = _sized((3, 16))
  with pytest.raises(ValueError, match=r'student_layers=.last. are 2 layers'):
    _term('pkd', env, params, teacher_layers='1,2,3')


@pytest.mark.parametrize('name', TERMS)
def test_without_weight_it_is_kd(rng, name):
  env, params = _sized()
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  fields = tiny.fields(name, weight=0.0)
  method = methods.get(name)(fields, env)
  extra, memory = method.init(jax.random.key(0), params, DATA)
  plain = kd.make(ConfigDict({k: fields[k] for k in ('hard', 'soft', 'temperature')}), env)
  got, _ = jax.jit(method.players['student'].loss)(params | extra, memory, batch, jax.random.key(0))
  want, _ = jax.jit(plain.players['student'].loss)(params, (), batch, jax.random.key(0))
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_pkd_of_equal_widths_has_no_head_and_is_saved_all_the_same(rng, tmp_path):
  env, params = _sized((2, 24))
  mesh = sharding.make_mesh(4)
  method = methods.get('pkd')(tiny.fields('pkd'), env)
  game = train.start(method, params, tiny.dataset(), tiny.train_fields(), 8, mesh)
  step, batch = game.steps['student'], sharding.put(tiny.batch(rng), mesh)
  state, _ = step(game.state, game.frozen, batch, game.key)
  half = jax.device_get(state)
  assert half.params['pkd_heads'] == {}
  store = checkpoint.Store(tmp_path)
  store.save(1, half, {})
  store.close()
  store = checkpoint.Store(tmp_path)
  back, _ = store.restore(state)
  store.close()
  ends = [step(s, game.frozen, batch, game.key)[0] for s in (back, half)]
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get(ends))


@pytest.mark.parametrize('name', TERMS)
def test_the_distance_falls(name):
  rng = np.random.default_rng(0)
  env, params = _sized()
  mesh = sharding.make_mesh(1)
  method = methods.get(name)(tiny.fields(name, weight=1.0), env)
  game = train.start(method, params, tiny.dataset(), tiny.train_fields(rate=3e-3), 400, mesh)
  batch, state, found = sharding.put(tiny.batch(rng), mesh), game.state, []
  for _ in range(30):
    state, metrics = game.steps['student'](state, game.frozen, batch, game.key)
    found.append(float(metrics['student/distance']))
  assert found[-1] < 0.6 * found[0]


@pytest.mark.parametrize('name', TERMS)
def test_either_goes_beside_augpro(rng, name):
  env, params = _sized()
  fields = tiny.fields('augpro', forbid_own=True)
  with fields.unlocked():
    fields.also = ConfigDict(TERMS[name][1] | dict(name=name, on='both'))
  method = methods.get('augpro')(fields, env)
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  extra, memory = method.init(jax.random.key(0), params, DATA)
  loss = jax.jit(method.players['student'].loss)
  _, (after, metrics) = loss(params | extra, memory, batch, jax.random.key(0))
  assert {'moved', 'distance', 'distance_new'} <= set(metrics)
  assert metrics['distance'] != metrics['distance_new']
  if name == 'rail_kd':
    assert int(after['term']['seen']) == 8


WRONG = [('pkd', 'pool', 'x'), ('pkd', 'temperature', 0.0), ('rail_kd', 'pool', 'x')]
WRONG += [('rail_kd', 'kind', 'x'), ('rail_kd', 'every', 'x'), ('rail_kd', 'dims', 0)]


@pytest.mark.parametrize('name, field, value', WRONG)
def test_a_switch_or_number_out_of_range_is_refused_by_name(name, field, value):
  env, _ = tiny.world()
  with pytest.raises(ValueError, match=f'config.method.{field}='):
    methods.get(name)(tiny.fields(name, **{field: value}), env)


@pytest.mark.parametrize('name', TERMS)
def test_each_model_reads_its_own_tokens(rng, name):
  # Two tokenisations: lengths and masks differ.
  env, params = _sized()
  env = env._replace(
    mismatch='other ids', teacher=dataclasses.replace(env.teacher, view='teacher_')
  )
  call, params, memory = _term(name, env, params, pool='mean')
  own = tiny.batch(rng)
  theirs = {f'teacher_{k}': own[k][:, :9] for k in ('tokens', 'segments', 'mask')}
  (_, _, metrics), _ = call(params, memory, own | theirs)
  assert np.isfinite(metrics['distance'])
