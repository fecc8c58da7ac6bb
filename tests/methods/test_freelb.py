"""Adversarial embeddings: where the points lie, and whose gradient the student gets."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import env as environments
from kdjax import methods
from tests import tiny

BOTH = pytest.mark.parametrize('kind', ['freelb', 'fgsm'])


def _batch(rng, **kwargs):
  return {k: jnp.asarray(v) for k, v in tiny.batch(rng, **kwargs).items()}


def _quiet(**kwargs):
  env, params = tiny.world(**kwargs)
  return env._replace(student=environments.quiet(env.student)), params


def _graded(env, params, batch, key=0, **changes):
  """(loss, metrics, gradient of the student)."""
  player = methods.get('freelb')(tiny.fields('freelb', **changes), env).players['student']

  def loss(student):
    every = params | dict(student=student)
    value, (memory, metrics) = player.loss(every, (), batch, jax.random.key(key))
    assert memory == ()
    return value, metrics

  (value, metrics), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(params['student'])
  return float(value), jax.device_get(metrics), jax.device_get(slope)


def _points(env, params, batch, **changes):
  """Displacements f32[K, B, L, E] that the student met, in order."""
  seen = []
  encode = env.student.encode

  def spy(params, e, mask, segments, key=None):
    jax.debug.callback(lambda e: seen.append(np.asarray(e)), e, ordered=True)
    return encode(params, e, mask, segments, key)

  player = methods.get('freelb')(
    tiny.fields('freelb', **changes),
    env._replace(student=dataclasses.replace(env.student, encode=spy)),
  ).players['student']
  jax.jit(player.loss)(params, (), batch, jax.random.key(0))
  jax.effects_barrier()
  return np.stack(seen[1:]) - seen[0][None]  # the first is the text itself


def _close(a, b, **kwargs):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, **kwargs)


@pytest.mark.parametrize('target', ['label', 'teacher'])
def test_freelb_averages_the_gradient_over_its_points(rng, target):
  env, params = _quiet()
  batch = _batch(rng)
  changes = dict(target=target, steps=3, radius=2.0, rate=1.0)
  points = _points(env, params, batch, **changes)
  assert len(points) == 3
  teacher = env.teacher(params['teacher'], batch).logits

  def want(student):
    def at(delta):
      e_BLE = env.student.embed(student, batch['tokens']) + delta
      logits = env.student.enter(student, batch, e_BLE).logits
      if target == 'label':
        return env.task.loss(logits, batch['label']).mean()
      return env.task.gap(logits, teacher, 1.0).mean()

    return sum(at(jnp.asarray(delta)) for delta in points) / 3

  mean, slope = jax.jit(jax.value_and_grad(want))(params['student'])
  got, metrics, found = _graded(env, params, batch, hard=0.0, soft=0.0, **changes)
  np.testing.assert_allclose([got, metrics['augmented']], [mean, mean], rtol=1e-4)
  _close(found, slope, rtol=1e-3, atol=1e-5)


def test_each_freelb_point_is_a_step_of_its_length_up_the_gradient_back_into_the_ball(rng):
  env, params = _quiet()
  batch = _batch(rng)
  points = _points(env, params, batch, steps=3, radius=5.0, rate=0.5)
  e_BLE = env.student.embed(params['student'], batch['tokens'])

  def norm(x_BLE):
    return np.sqrt(np.square(x_BLE).sum((1, 2), keepdims=True))

  def off(delta):
    logits = env.student.enter(params['student'], batch, e_BLE + delta).logits
    return env.task.loss(logits, batch['label']).sum()

  real = np.asarray(batch['mask'])[..., None]
  slope = jax.jit(jax.grad(off))

  def stepped(here, radius):
    gradient = np.where(real, slope(here), 0)
    there = here + 0.5 * gradient / norm(gradient)
    return there * np.minimum(1, radius / norm(there))

  for here, there in itertools.pairwise(points):
    np.testing.assert_allclose(there, stepped(here, 5.0), atol=1e-4)
  numbers = real.sum((1, 2)) * e_BLE.shape[-1]
  bound = 5 / np.sqrt(numbers)
  assert (np.abs(points[0]).max((1, 2)) <= bound * 1.001).all()
  assert (np.abs(points[0]).max((1, 2)) > bound * 0.7).all()

  points = _points(env, params, batch, steps=4, radius=0.7, rate=0.5)
  for here, there in itertools.pairwise(points):
    np.testing.assert_allclose(there, stepped(here, 0.7), atol=1e-4)
  assert all((norm(x) <= 0.7 * 1.001).all() for x in points) and (norm(points[2]) > 0.69).any()


def test_fgsm_moves_every_number_by_epsilon_up_the_loss(rng):
  env, params = _quiet()
  batch = _batch(rng)
  delta = _points(env, params, batch, kind='fgsm', epsilon=0.02)[-1]
  e_BLE = env.student.embed(params['student'], batch['tokens'])

  def off(e_BLE):
    logits = env.student.enter(params['student'], batch, e_BLE).logits
    return env.task.loss(logits, batch['label']).sum()

  gradient = np.asarray(jax.grad(off)(e_BLE))
  clear = np.abs(gradient) > 1e-5
  assert clear.mean() > 0.3
  np.testing.assert_allclose(delta[clear], 0.02 * np.sign(gradient)[clear], atol=1e-5)


@BOTH
def test_padding_stays_and_a_text_of_special_tokens_moves(rng, kind):
  env, params = _quiet()
  batch = _batch(rng)
  delta = _points(env, params, batch, kind=kind)[-1]
  assert not delta[~np.asarray(batch['mask'])].any()
  assert np.isfinite(delta).all() and (delta != 0).any((1, 2)).all()


@BOTH
def test_the_points_raise_the_loss_and_the_metrics_say_so(rng, kind):
  env, params = _quiet()
  for target in ('label', 'teacher'):
    value, metrics, _ = _graded(
      env, params, _batch(rng), kind=kind, target=target, radius=2.0, rate=1.0, epsilon=0.1
    )
    assert metrics['rise'] > 1.02 and metrics['moved_norm'] > 0.5
    want = metrics['hard'] + metrics['soft'] + metrics['augmented']
    np.testing.assert_allclose(value, want, rtol=1e-5)


@BOTH
def test_a_step_has_one_dropout_mask(rng, kind):
  env, params = tiny.world()
  # So small a ball that only another mask could change the loss.
  _, metrics, _ = _graded(env, params, _batch(rng), kind=kind, radius=1e-7, epsilon=1e-9)
  np.testing.assert_allclose(metrics['augmented'], metrics['hard'], rtol=1e-4)
  np.testing.assert_allclose(metrics['rise'], 1, rtol=1e-4)


@BOTH
def test_a_teacher_with_its_own_tokenizer_will_do(rng, kind):
  env, params = tiny.world(mismatch='7 of 60 token ids differ')
  env = env._replace(teacher=dataclasses.replace(env.teacher, view='teacher_'))
  theirs = tiny.batch(rng)
  batch = _batch(rng)
  batch |= {f'teacher_{k}': jnp.asarray(theirs[k]) for k in ('tokens', 'segments', 'mask')}
  value, _, slope = _graded(env, params, batch, kind=kind, target='teacher')
  assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves(slope))


WRONG = [('kind', 'x'), ('target', 'x'), ('epsilon', 0.0), ('radius', 0.0), ('rate', 0.0)]
WRONG += [('steps', 0), ('temperature', 0.0)]


@pytest.mark.parametrize('field, value', WRONG)
def test_a_switch_or_number_out_of_range_is_refused_by_name(field, value):
  env, _ = tiny.world()
  with pytest.raises(ValueError, match=f'config.method.{field}='):
    methods.get('freelb')(tiny.fields('freelb', **{field: value}), env)
