"""Methods on images: the same losses and the same loop; pixels move, and stay pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import checkpoint, methods, net, sharding, tasks, train
from kdjax import env as environments
from kdjax.data import batches
from kdjax.methods import backward_kd, base
from kdjax.models import vision_files
from tests import tiny

SHAPE, CLASSES = (4, 3, 2), 3
ON_IMAGES = [name for name in methods.names() if name not in base.TOKENS]
ROOM = dict(first_round=1.0, cap=1e6)  # samples at once, and nothing in their way


@functools.cache
def _model(word, seed):
  labels = [str(i) for i in range(CLASSES)]
  return vision_files.build(vision_files.config(word, SHAPE, labels), jax.random.key(seed))


def world(student='mlp:6,5', teacher='mlp:9,8,7'):
  """(Env, parameters by name)."""
  ours, params = net.split(_model(student, 1))
  theirs, frozen = net.split(_model(teacher, 2))
  made = environments.Env(ours, theirs, tasks.KINDS['classes'], None, bounds=(0.0, 1.0))
  return made, dict(student=params, teacher=frozen)


def picture(rng, rows=8, numbers=None):
  """A batch of random images, many pixels at either end of the range."""
  numbers = numbers or (SHAPE[0] * SHAPE[1], SHAPE[2])
  x = np.clip(rng.normal(0.5, 0.5, (rows, *numbers)), 0, 1).astype(np.float32)
  real = np.ones((rows, numbers[0]), bool)
  return {
    k: jnp.asarray(v)
    for k, v in dict(
      tokens=x,
      segments=np.zeros((rows, numbers[0]), np.int32),
      mask=real,
      maskable=real,
      label=rng.integers(0, CLASSES, rows).astype(np.int32),
      index=np.arange(rows, dtype=np.int32),
    ).items()
  }


def called(env, params, batch, **changes):
  """The View of one call, of the fields as shipped for images."""
  from configs import common

  c = common.config('digits', 'backward_kd').baselines.backward_kd
  c.update(changes)
  part = backward_kd.view(c, env)
  _, memory = part.init(jax.random.key(0), params, base.Data(np.arange(40), None, 8, 100))
  return jax.jit(part.call)(params, memory, batch, None, None, jax.random.key(1))[0]


# The ascent.


def linear(A, B, bounds):
  """(Env, parameters): logits are a matrix times the pixels."""

  def encode(params, e_BPC, mask, segments, key=None):
    del mask, segments, key
    x_BD = e_BPC.reshape(len(e_BPC), -1)
    logits = jnp.matmul(x_BD, params['out'].T, precision='highest')
    return net.Out(logits, x_BD[None, :, None])

  def table(params):
    raise ValueError('a model of images has no table of word embeddings')

  one = net.Net(lambda params, pixels: pixels, encode, table)
  made = environments.Env(one, one, tasks.KINDS['classes'], None, bounds=bounds)
  f32 = lambda x: dict(out=jnp.asarray(x, jnp.float32))  # noqa: E731
  return made, dict(teacher=f32(A), student=f32(B))


def test_the_worked_example_of_two_linear_maps(rng):
  # M = (A - B)^T (A - B) = diag(0, 4.25): x_n = (I + 2 eta M)^n x_0.
  env, params = linear([[1, 2], [0, 1]], [[1, 0], [0, 0.5]], (0.0, 10.0))
  batch = picture(rng, 1, (2, 1)) | dict(tokens=jnp.ones((1, 2, 1)))
  want = {1: (1.425, 8.630156), 2: (2.030625, 17.524611), 3: (2.893641, 35.585913)}
  for steps, (second, gap) in want.items():
    view = called(env, params, batch, rate=0.05, steps=steps, **ROOM)
    np.testing.assert_allclose(view.student[0, :, 0], [1, second], rtol=1e-5)
    np.testing.assert_array_equal(view.teacher, view.student)
    np.testing.assert_allclose(view.metrics['gap_before'], 4.25, rtol=1e-5)
    np.testing.assert_allclose(view.metrics['gap_after'], gap, rtol=1e-5)
    np.testing.assert_allclose(view.metrics['rise'], gap / 4.25, rtol=1e-5)


@pytest.mark.parametrize('rate, cap', [(1e-3, 1e6), (0.05, 1e6), (0.05, 0.3)])
def test_each_step_is_clamped_and_the_next_begins_there(rng, rate, cap):
  A, B = rng.normal(size=(2, 5, 12))
  env, params = linear(A, B, (0.0, 1.0))
  batch = picture(rng, numbers=(6, 2))
  start = np.asarray(batch['tokens'], np.float64).reshape(8, 12)
  M, x = (A - B).T @ (A - B), start
  for _ in range(4):
    x = x + rate * 2 * x @ M
    moved = x - start
    norm = np.linalg.norm(moved, axis=1, keepdims=True)
    x = np.clip(np.where(norm > cap, start + moved * cap / norm, x), 0, 1)
  view = called(env, params, batch, rate=rate, steps=4, first_round=1.0, cap=cap)
  np.testing.assert_allclose(view.student.reshape(8, 12), x, atol=2e-3)
  got = np.asarray(view.student).reshape(8, 12)
  ends = sum(((got == end) & (start != end)).mean() for end in (0, 1))
  np.testing.assert_allclose(view.metrics['clamped'], ends, rtol=1e-5)
  moved = np.linalg.norm(got - start, axis=1)
  np.testing.assert_allclose(view.metrics['moved_norm'], moved.mean(), rtol=1e-4)
  np.testing.assert_allclose(view.metrics['capped'], (moved > 0.999 * cap).mean())


@pytest.mark.parametrize('models', [{}, dict(student='resnet:4', teacher='resnet:4,6')], ids=str)
def test_pixels_stay_in_their_range_however_large_the_step(rng, models):
  env, params = world(**models)
  batch = picture(rng)
  view = called(env, params, batch, rate=1e3, **ROOM)
  assert view.student.min() >= 0 and view.student.max() <= 1
  assert view.metrics['clamped'] > 0.1 and view.metrics['moved_norm'] > 0.1
  assert view.changed.all()


def test_equal_models_are_a_fixed_point(rng):
  env, params = world(student='mlp:9,8,7')
  params['student'] = params['teacher']
  batch = picture(rng)
  view = called(env, params, batch, rate=10.0, **ROOM)
  np.testing.assert_array_equal(view.student, batch['tokens'])
  assert view.metrics['gap_before'] == view.metrics['moved_norm'] == view.metrics['clamped'] == 0


@pytest.mark.parametrize('models', [{}, dict(student='resnet:4', teacher='resnet:4,6')], ids=str)
def test_a_step_is_along_the_slope_and_the_gaps_are_those_of_both_its_ends(rng, models):
  env, params = world(**models)
  batch = picture(rng) | dict(tokens=jnp.asarray(rng.uniform(0.2, 0.8, (8, 12, 2)), jnp.float32))

  def gap(x):
    s, t = (getattr(env, n).enter(params[n], batch, x).logits for n in ('student', 'teacher'))
    return jnp.square(s - t).sum()

  before, slope = jax.jit(jax.value_and_grad(gap))(batch['tokens'])
  rate = 0.02 / float(jnp.linalg.norm(slope))
  view = called(env, params, batch, rate=rate, steps=1, **ROOM)
  np.testing.assert_allclose(view.student - batch['tokens'], rate * slope, atol=1e-5)
  # Not the square of the slope: a kink of the models between the ends would change that.
  after = jax.jit(gap)(view.student)
  np.testing.assert_allclose(view.metrics['gap_before'], before / 8, rtol=1e-4)
  np.testing.assert_allclose(view.metrics['gap_after'], after / 8, rtol=1e-4)


def test_the_first_round_is_plain_kd_and_later_ones_are_not(rng):
  env, params = world()
  batch = picture(rng)
  found = {}
  for name in ('kd', 'backward_kd'):
    method = methods.get(name)(tiny.fields(name), env)
    _, memory = method.init(jax.random.key(0), params, base.Data(np.arange(40), None, 8, 100))

    def loss(student, memory, method=method):
      both = params | dict(student=student)
      return method.players['student'].loss(both, memory, batch, jax.random.key(0))[0]

    graded = jax.jit(jax.grad(loss))
    found[name] = graded(params['student'], memory)
    if name == 'backward_kd':
      memory['view']['clock'] += memory['view']['round']
      found['later'] = graded(params['student'], memory)
  plain = jax.tree.leaves(found['kd'])
  for name, same in (('backward_kd', True), ('later', False)):
    gaps = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(found[name]), plain, strict=True)]
    assert (max(gaps) < 1e-5) == same, name


# Every method.


@functools.cache
def game(name, devices=1, models=()):
  env, params = world(*models)
  method = methods.get(name)(tiny.fields(name), env)
  label = np.arange(40, dtype=np.int32) % CLASSES
  data = batches.Dataset(None, label, np.arange(40, dtype=np.int32), None)
  mesh = sharding.make_mesh(devices)
  return method, train.start(method, params, data, tiny.train_fields(), 400, mesh), mesh


def play(name, batches, devices=1, models=(), state=None, first=0):
  method, started, mesh = game(name, devices, models)
  players, log = list(method.players), []
  state = jax.tree.map(jnp.copy, state or started.state)
  for n, batch in enumerate(batches, first):
    step = started.steps[players[n % len(players)]]
    state, metrics = step(state, started.frozen, sharding.put(batch, mesh), started.key)
    log.append(jax.device_get(metrics))
  return jax.device_get(state), log


@pytest.mark.parametrize('name', ON_IMAGES)
def test_owned_parameters_move_and_the_teacher_does_not(rng, name):
  _, started, _ = game(name)
  before, frozen = jax.device_get((started.state.params, started.frozen))
  state, log = play(name, [picture(rng) for _ in range(3)])
  assert 'teacher' not in state.params
  after = jax.device_get(started.frozen)
  assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), frozen, after))
  for (path, start), end in zip(
    jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(state.params), strict=True
  ):
    assert not np.array_equal(start, end), path
  assert all(np.isfinite(v) for row in log for v in row.values())


@pytest.mark.parametrize('models', [(), ('resnet:4', 'resnet:4,6')], ids=str)
def test_one_device_equals_four(rng, models):
  parts = [picture(rng) for _ in range(2)]
  one, four = (play('backward_kd', parts, n, models)[1] for n in (1, 4))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5)


def test_seven_steps_are_five_saved_and_restored_and_two(rng, tmp_path):
  parts = [picture(rng) for _ in range(7)]  # a round is five
  whole, _ = play('backward_kd', parts)
  half, _ = play('backward_kd', parts[:5])
  store = checkpoint.Store(tmp_path)
  store.save(5, half, {})
  store.close()
  store = checkpoint.Store(tmp_path)
  state, _ = store.restore(game('backward_kd')[1].state)
  store.close()
  end, log = play('backward_kd', parts[5:], state=state, first=5)
  assert all(row['student/rise'] > 1 for row in log)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(end), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('name', base.TOKENS)
def test_methods_that_need_tokens_refuse_and_name_those_that_do_not(name):
  env, _ = world()
  with pytest.raises(ValueError, match=f'method {name} is for text.*backward_kd.*mixkd') as caught:
    methods.get(name)(tiny.fields(name), env)
  assert '\n' not in str(caught.value) and not any(
    f'{other},' in str(caught.value).split('there are')[1] for other in base.TOKENS
  )


@pytest.mark.parametrize('changes', [dict(kind='freelb'), dict(kind='fgsm')], ids=str)
def test_adversarial_images_stay_images(rng, changes):
  env, params = world()
  seen = []
  inner = env.student.encode

  def encode(params, e, *rest):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), e)
    return inner(params, e, *rest)

  watched = net.Net(env.student.embed, encode, env.student.table, row=env.student.row)
  c = tiny.fields('freelb', epsilon=0.4, radius=3.0, rate=1.0, **changes)
  method = methods.get('freelb')(c, env._replace(student=watched))
  loss, _ = method.players['student'].loss(params, (), picture(rng), jax.random.key(0))
  jax.effects_barrier()
  assert np.isfinite(loss) and len(seen) > 2
  assert all(x.min() >= -1e-6 and x.max() <= 1 + 1e-6 for x in seen)
  assert max(np.abs(x - seen[0]).max() for x in seen) > 0.1


@pytest.mark.parametrize('name', ['codir', 'cilda', 'pkd', 'rail_kd'])
def test_terms_go_beside_the_ascent(rng, name):
  import importlib

  fields = dict(name=name, on='both', **importlib.import_module(f'configs.{name}').TERM)
  env, params = world()
  from ml_collections import ConfigDict

  c = tiny.fields('backward_kd', first_round=1.0)
  with c.unlocked():
    c.also = ConfigDict(fields)
  method = methods.get('backward_kd')(c, env)
  label = np.arange(40, dtype=np.int32) % CLASSES
  data = base.Data(np.arange(40, dtype=np.int32), label, 8, 100)
  extra, memory = method.init(jax.random.key(0), params, data)
  loss, _ = jax.jit(method.players['student'].loss)(
    params | extra, memory, picture(rng), jax.random.key(0)
  )
  assert np.isfinite(loss)
