"""Annealing-KD, Combined-KD and Continuation-KD: phases, factors, and the released numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import env as environments
from kdjax import methods
from kdjax.methods import annealing_kd, base, mate_kd
from tests import tiny


def _logits(env, params, batch):
  """Of student and teacher, float64."""
  nets = dict(student=env.student, teacher=env.teacher)
  return [np.asarray(jax.jit(n)(params[k], batch).logits, np.float64) for k, n in nets.items()]


def _factors(phases, t_max, clamp, rows_an_epoch=20):
  """The factor at each epoch's first and last row."""
  c = tiny.fields('annealing_kd', phases=phases, t_max=t_max, clamp=clamp)
  memory = annealing_kd.started(phases[0] * rows_an_epoch)
  out = []
  for epoch in range(phases[0]):
    ends = [epoch * rows_an_epoch, (epoch + 1) * rows_an_epoch - 1]
    found = [float(annealing_kd.factor(c, memory | dict(clock=jnp.int32(k)))) for k in ends]
    assert found[0] == found[1]
    out.append(found[0])
  return out


def test_the_released_factors():
  # huawei-noah/KD-NLP, Combined_KD.py as its script calls it, and Combined_KD_bert.py's defaults.
  want = np.repeat(np.arange(1, 11) / 10, 3)
  np.testing.assert_allclose(_factors((30, 10), 10, False), want, rtol=1e-6)
  want = np.repeat(np.arange(1, 16) / 14, 2)  # 15/14 in the last two epochs
  np.testing.assert_allclose(_factors((30, 6), 14, False), want, rtol=1e-6)
  np.testing.assert_allclose(_factors((30, 6), 14, True), np.minimum(want, 1), rtol=1e-6)


def test_the_released_squared_error():
  # Values of Combined_KD.py's losses.
  s, t = jnp.array([[1.0, -1], [0.5, 2]]), jnp.array([[3.0, -2], [-1, 4]])
  np.testing.assert_allclose(annealing_kd.mean_square(s, 0.3 * t).mean(), 0.3625, rtol=1e-5)
  np.testing.assert_allclose(annealing_kd.mean_square(s, t).mean(), 2.8125, rtol=1e-6)


def test_scores_are_not_broadcast_against_each_other():
  # The released code takes (B, 1) from (B,) and gets 2.444 for this.
  env, _ = tiny.world('regression')
  got = env.task.loss(jnp.array([[1.0], [2], [4]]), jnp.array([1.0, 3, 3])).mean()
  np.testing.assert_allclose(got, 2 / 3, rtol=1e-6)


def test_phases_divide_a_run_of_any_length():
  env, _ = tiny.world()
  method = methods.get('annealing_kd')(tiny.fields('annealing_kd', phases=(14, 4)), env)
  for steps in (18, 180, 7, 1):
    names = [method.turn(k, steps) for k in range(steps)]
    first = names.count('regress')
    assert names == ['regress'] * first + ['student'] * (steps - first)
    assert abs(first - steps * 14 / 18) <= 0.5


def test_phase_one_is_the_teachers_logits_by_the_factor(rng):
  env, params = tiny.world()
  env = env._replace(student=environments.quiet(env.student))
  method = methods.get('annealing_kd')(tiny.fields('annealing_kd', t_max=7), env)
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  _, memory = method.init(jax.random.key(0), params, base.Data(None, None, 8, 18))
  assert int(memory['end']) == 14 * 8
  loss, (after, _) = jax.jit(method.players['regress'].loss)(
    params, memory, batch, jax.random.key(0)
  )
  s, t = (
    np.asarray(jax.jit(getattr(env, k))(params[k], batch).logits) for k in ('student', 'teacher')
  )
  np.testing.assert_allclose(loss, ((s - t / 7) ** 2).mean(), rtol=1e-4)
  assert int(after['clock']) == 8


def test_combined_kd_plays_mate_kds_turns_and_then_the_labels():
  env, _ = tiny.world()
  method = methods.get('comkd')(tiny.fields('comkd', phases=(30, 10)), env)
  names = [method.turn(k, 440) for k in range(440)]
  assert names[330:] == ['student'] * 110
  assert names[:330] == (['generator'] * 10 + ['regress'] * 100) * 3
  _, memory = method.init(jax.random.key(0), {}, base.Data(None, None, 8, 440))
  assert int(memory['end']) == 300 * 8  # the generator's batches do not age the student


def test_combined_kd_regresses_on_both_texts(rng):
  env, params = tiny.world()
  parts = {k: environments.quiet(getattr(env, k)) for k in ('student', 'teacher', 'generator')}
  env = env._replace(**parts)
  method = methods.get('comkd')(tiny.fields('comkd', rho=1e-9, t_max=10), env)
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  _, memory = method.init(jax.random.key(0), params, base.Data(None, None, 8, 440))
  loss, (_, metrics) = jax.jit(method.players['regress'].loss)(
    params, memory, batch, jax.random.key(0)
  )
  s, t = (
    np.asarray(jax.jit(getattr(env, k))(params[k], batch).logits) for k in ('student', 'teacher')
  )
  want = ((s - t / 10) ** 2).mean()  # nothing hidden: the two terms are one
  np.testing.assert_allclose([loss, metrics['soft'], metrics['augmented']], want, rtol=1e-4)


def test_combined_kd_regresses_on_what_mate_kd_writes(rng):
  env, params = tiny.world()
  parts = {k: environments.quiet(getattr(env, k)) for k in ('student', 'teacher', 'generator')}
  env, c = env._replace(**parts), tiny.fields('comkd', rho=0.6, t_max=10)
  method, key = methods.get('comkd')(c, env), jax.random.key(int(rng.integers(1 << 30)))
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  _, memory = method.init(key, params, base.Data(None, None, 8, 440))
  loss, (_, metrics) = jax.jit(method.players['regress'].loss)(params, memory, batch, key)
  k_new = jax.random.split(key, 3)[1]
  write = lambda p, b: mate_kd.view(c, env).call(p, (), b, None, None, k_new)[0].student  # noqa: E731
  new = jax.jit(write)(params, batch)
  assert (new != batch['tokens']).any()
  want = [
    ((s - t / 10) ** 2).mean()
    for s, t in (_logits(env, params, batch | dict(tokens=x)) for x in (batch['tokens'], new))
  ]
  np.testing.assert_allclose([metrics['soft'], metrics['augmented']], want, rtol=1e-4)
  np.testing.assert_allclose(loss, np.mean(want), rtol=1e-4)


def test_continuation_goes_from_the_teacher_to_the_labels(rng):
  env, params = tiny.world()
  env = env._replace(student=environments.quiet(env.student))
  c = tiny.fields('continuation_kd', t_max=10, margin=0.02)
  method = methods.get('continuation_kd')(c, env)
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  s, t = _logits(env, params, batch)
  log = s - np.log(np.exp(s).sum(1, keepdims=True))
  hard = -log[np.arange(8), batch['label']].mean()
  run = jax.jit(method.players['student'].loss)
  _, memory = method.init(jax.random.key(0), params, base.Data(None, None, 8, 50))
  for clock, w, a in ((0, 0.0, 0.1), (200, 0.5, 0.6), (10_000, 399 / 400, 1.0)):
    got, _ = run(params, memory | dict(clock=jnp.int32(clock)), batch, jax.random.key(0))
    soft = np.maximum(((s - a * t) ** 2).mean(1) - 0.02, 0).mean()
    np.testing.assert_allclose(got, (1 - w) * soft + w * hard, rtol=1e-4)


@pytest.mark.parametrize('phases', [(1,), (0, 0), (-1, 2)])
def test_phases_that_are_none_are_refused(phases):
  env, _ = tiny.world()
  with pytest.raises(ValueError, match='phases='):
    methods.get('annealing_kd')(tiny.fields('annealing_kd', phases=phases), env)


@pytest.mark.parametrize('name', ['annealing_kd', 'comkd'])
def test_a_first_phase_in_which_the_factor_cannot_grow_whole_is_refused(rng, name):
  env, _ = tiny.world()
  make, t_max = methods.get(name), int(rng.integers(2, 20))
  make(tiny.fields(name, phases=(t_max, 1), t_max=t_max), env)
  np.testing.assert_allclose(_factors((t_max, 1), t_max, True)[-1], 1, rtol=1e-6)
  short = tiny.fields(name, phases=(t_max - 1, 1), t_max=t_max)
  with pytest.raises(ValueError, match=f'config.method.t_max={t_max} .*config.method.phases='):
    make(short, env)
  make(tiny.fields(name, phases=(0, 1), t_max=t_max), env)  # of no first phase it is not asked
