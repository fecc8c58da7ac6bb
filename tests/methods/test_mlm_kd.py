"""Distillation of masked language models: each term by hand, gradients, what it comes down to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import env as environments
from kdjax import methods, sharding, train
from kdjax.methods import base, mlm_kd
from tests import tiny


def _world(**options):
  """Without dropout, both with a masked-LM head."""
  env, params = tiny.world(student_head='mlm', teacher_head='mlm', **options)
  return env._replace(student=environments.quiet(env.student)), params


def _batch(rng, rows: int = 8):
  return {k: jnp.asarray(v) for k, v in tiny.batch(rng, rows).items()}


def _made(env, params, **changes):
  """(loss, parameters with those that the method adds)."""
  method = methods.get('mlm_kd')(tiny.fields('mlm_kd', **changes), env)
  data = tiny.dataset()
  extra, memory = method.init(jax.random.key(7), params, base.Data(data.index, data.label, 8, 10))
  assert memory == ()
  return jax.jit(method.players['student'].loss), params | extra


def _guesses(env, params, batch):
  """float64 logits of both models, and the tokens, where all ordinary ones are [MASK]."""
  shown = batch | dict(tokens=jnp.where(batch['maskable'], tiny.MASK, batch['tokens']))
  hidden = np.asarray(batch['maskable'])
  logits = [
    np.asarray(jax.jit(net)(params[name], shown).logits, np.float64)[hidden]
    for name, net in (('student', env.student), ('teacher', env.teacher))
  ]
  return *logits, np.asarray(batch['tokens'])[hidden]


def _log_p(logits):
  return logits - np.log(np.exp(logits).sum(1, keepdims=True))


ALL = dict(rho=1.0, style='mask')  # nothing is left to chance: every ordinary token is a [MASK]


@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_the_loss_is_its_formula_over_hidden_tokens(rng, temperature):
  env, params = _world()
  batch = _batch(rng)
  loss, params = _made(env, params, hard=0.3, soft=0.6, temperature=temperature, **ALL)
  got, (_, metrics) = loss(params, (), batch, jax.random.key(0))
  student, teacher, gold = _guesses(env, params, batch)
  hard = -_log_p(student)[np.arange(len(gold)), gold].mean()
  log_q, log_p = _log_p(student / temperature), _log_p(teacher / temperature)
  soft = temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
  np.testing.assert_allclose(metrics['hard'], hard, rtol=1e-5)
  np.testing.assert_allclose(metrics['soft'], soft, rtol=1e-4)
  np.testing.assert_allclose(got, 0.3 * hard + 0.6 * soft, rtol=1e-4)
  np.testing.assert_allclose(metrics['top1'], (student.argmax(1) == gold).mean(), rtol=1e-6)
  same = (student.argmax(1) == teacher.argmax(1)).mean()
  np.testing.assert_allclose(metrics['agree'], same, rtol=1e-6)
  assert metrics['overflow'] == 0 and 'contrast' not in metrics


def _pooled(out, mask, layers, pool):
  hidden = np.asarray(out.hidden, np.float64)
  if pool == 'first':
    return np.concatenate([hidden[l][:, 0] for l in layers], 1)
  return np.concatenate(
    [(hidden[l] * mask[..., None]).sum(1) / mask.sum(1, keepdims=True) for l in layers], 1
  )


@pytest.mark.parametrize('pool', ['mean', 'first'])
def test_the_contrast_is_info_nce_among_the_rows_of_the_batch(rng, pool):
  env, params = _world()
  batch = _batch(rng)
  changes = dict(weight=0.7, hard=0.0, soft=0.0, tau=0.2, pool=pool, teacher_layers='1,2')
  loss, params = _made(env, params, **changes, rho=1e-9)  # the text as it is
  got, (_, metrics) = loss(params, (), batch, jax.random.key(0))
  mask, v = np.asarray(batch['mask'], np.float64), {}
  for name, layers in (('student', (1,)), ('teacher', (1, 2))):
    out = jax.jit(getattr(env, name))(params[name], batch)
    head = {k: np.asarray(x, np.float64) for k, x in params['contrast_heads'][name].items()}
    x = _pooled(out, mask, layers, pool) @ head['kernel'] + head['bias']
    v[name] = x / np.linalg.norm(x, axis=1, keepdims=True)
  cosine = v['student'] @ v['teacher'].T
  want = (np.log(np.exp(cosine / 0.2).sum(1)) - cosine.diagonal() / 0.2).mean()
  np.testing.assert_allclose(metrics['contrast'], want, rtol=1e-4)
  np.testing.assert_allclose(got, 0.7 * want, rtol=1e-4)
  ahead = np.mean([row.argmax() == i for i, row in enumerate(cosine)])
  np.testing.assert_allclose(metrics['ahead'], ahead, atol=1e-6)


def test_ahead_counts_the_rows_whose_own_is_nearest():
  own = jnp.eye(4)
  assert mlm_kd.ahead(own, own) == 1
  assert mlm_kd.ahead(own, own[jnp.array([1, 0, 2, 3])]) == 0.5
  assert mlm_kd.ahead(own, jnp.ones((4, 4))) == 0  # level with the others is not ahead


def test_without_teacher_and_contrast_it_is_the_loss_of_mlm(rng):
  env, params = _world()
  batch, key = _batch(rng, 16), jax.random.key(int(rng.integers(99)))
  loss, params = _made(env, params, hard=1.0, soft=0.0)
  plain = jax.jit(methods.get('mlm')(tiny.fields('mlm'), env).players['student'].loss)
  grads = [jax.grad(f, has_aux=True) for f in (loss, plain)]
  (got, _), (want, _) = (f(params, (), batch, key) for f in (loss, plain))
  np.testing.assert_allclose(got, want, rtol=1e-6)
  (got, _), (want, _) = (f(params, (), batch, key) for f in grads)
  for a, b in zip(jax.tree.leaves(got['student']), jax.tree.leaves(want['student']), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_the_gradient_is_that_of_finite_differences(rng):
  env, params = _world()
  batch = _batch(rng)
  loss, params = _made(env, params, weight=0.5, tau=0.5, **ALL)
  own = {k: params[k] for k in ('student', 'contrast_heads')}
  value = jax.jit(lambda own: loss(params | own, (), batch, jax.random.key(0))[0])
  grads = jax.grad(value)(own)
  leaves, tree = jax.tree.flatten(own)
  step = [rng.normal(size=x.shape).astype(np.float32) * 1e-3 for x in leaves]
  move = lambda sign: tree.unflatten(  # noqa: E731
    [x + sign * d for x, d in zip(leaves, step, strict=True)]
  )
  want = (value(move(1)) - value(move(-1))) / 2
  got = sum((g * d).sum() for g, d in zip(jax.tree.leaves(grads), step, strict=True))
  np.testing.assert_allclose(got, want, rtol=0.05, atol=2e-4)


def test_student_and_both_heads_learn_and_the_teacher_is_asked_without_dropout(rng):
  env, params = _world()
  keys = []

  def encode(own, e, mask, segments, key=None):
    keys.append(key)
    return env.teacher.encode(own, e, mask, segments, key)

  spied = env._replace(teacher=dataclasses.replace(env.teacher, encode=encode))
  c = tiny.fields('mlm_kd', weight=0.5)
  method = methods.get('mlm_kd')(c, spied)
  assert method.players['student'].owns == ('student', 'contrast_heads')
  game = train.start(method, params, tiny.dataset(), tiny.train_fields(), 4, sharding.make_mesh(1))
  assert set(game.frozen) == {'teacher', 'generator'}
  batch = sharding.put(tiny.batch(rng), sharding.make_mesh(1))
  game.steps['student'](game.state, game.frozen, batch, game.key)
  assert set(keys) == {None}


def test_negatives_are_those_of_the_whole_batch_whatever_the_mesh(rng):
  env, params = _world()
  batch, rows = tiny.batch(rng), []
  for devices in (1, 4):
    mesh = sharding.make_mesh(devices)
    method = methods.get('mlm_kd')(tiny.fields('mlm_kd', weight=0.5), env)
    game = train.start(method, params, tiny.dataset(), tiny.train_fields(), 4, mesh)
    _, metrics = game.steps['student'](game.state, game.frozen, sharding.put(batch, mesh), game.key)
    rows.append(jax.device_get(metrics))
  for name in rows[0]:
    np.testing.assert_allclose(rows[0][name], rows[1][name], rtol=2e-4, atol=1e-5)


def test_labels_are_not_asked(rng):
  env, params = _world()
  loss, params = _made(env, params, weight=0.5)
  batch = _batch(rng)
  got = [
    loss(params, (), batch | dict(label=label), jax.random.key(0))[0]
    for label in (batch['label'], batch['label'] * 0 - 1)
  ]
  assert got[0] == got[1]


def test_it_learns_what_the_teacher_guesses(rng):
  env, params = _world()
  mesh, steps = sharding.make_mesh(1), 120
  method = methods.get('mlm_kd')(
    tiny.fields('mlm_kd', hard=0.0, soft=1.0, rho=0.3, weight=0.1), env
  )
  fields = tiny.train_fields(steps=steps, rate=1e-2, batch_size=32)
  game = train.start(method, params, tiny.dataset(), fields, steps, mesh)
  state, rows = game.state, []
  for _ in range(steps):
    batch = sharding.put(tiny.batch(rng, 32), mesh)
    state, metrics = game.steps['student'](state, game.frozen, batch, game.key)
    rows.append(jax.device_get(metrics))
  ends = [
    {k: np.mean([row[k] for row in part]) for k in rows[0]} for part in (rows[:5], rows[-10:])
  ]
  assert ends[1]['student/soft'] < 0.7 * ends[0]['student/soft']
  assert ends[1]['student/ahead'] > ends[0]['student/ahead'] + 0.1


def test_bad_fields_are_refused():
  env, params = _world()
  for changes, match in (
    (dict(temperature=0.0), r'config.method.temperature=0.0 must be above 0'),
    (dict(rho=1.5), r'config.method.rho'),
    (dict(style='electra'), r"config.method.style='electra' is none of bert, mask"),
    (dict(weight=0.1, tau=0.0), r'config.method.tau'),
    (dict(weight=0.1, pool='last'), r"config.method.pool='last' is none of first, mean"),
    (dict(weight=0.1, student_layers='2'), r"config.method.student_layers='2'"),
  ):
    with pytest.raises(ValueError, match=match):
      _made(env, params, **changes)
  with pytest.raises(ValueError, match='mlm_kd hides tokens, and the tokenizer has no mask token'):
    _made(env._replace(mask_id=None), params)
  with pytest.raises(ValueError, match='guesses of the same tokens, but they differ'):
    _made(env._replace(mismatch='they differ'), params)
