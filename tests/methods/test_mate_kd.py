"""MATE-KD: what is written, what each turn costs whom, and that the adversary works."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import augment, losses, methods, sharding, train
from kdjax import env as environments
from kdjax.methods import masking, mate_kd
from tests import tiny
from tests.methods import written


def _env(kind='classes'):
  """Without dropout: what is compared must be equal."""
  env, params = tiny.world(kind)
  parts = {k: environments.quiet(getattr(env, k)) for k in ('student', 'teacher', 'generator')}
  return env._replace(**parts), params


def _batch(rng, **changes):
  return {k: jnp.asarray(v) for k, v in tiny.batch(rng, **changes).items()}


def _logits(env, params, batch):
  """Of student and teacher, float64."""
  nets = dict(student=env.student, teacher=env.teacher)
  return [np.asarray(jax.jit(n)(params[k], batch).logits, np.float64) for k, n in nets.items()]


def _fields(**changes):
  return tiny.fields('mate_kd', **changes)


def test_turns_are_ten_and_a_hundred_as_in_the_released_code():
  env, _ = _env()
  method = methods.get('mate_kd')(_fields(), env)
  # huawei-noah/KD-NLP, MNLI in batches of 32: 30 epochs of 12,272.
  for n, want in ((9, 9), (110, 10), (115, 15), (368_160, 33_470)):
    assert 10 * (n // 110) + min(n % 110, 10) == want
    assert sum(method.turn(k, n) == 'generator' for k in range(n)) == want


def test_nothing_hidden_is_the_text_itself_and_moves_nobody(rng):
  # The word table is entered in the middle: logits must be those of the ids.
  env, params = _env()
  c = _fields(rho=1e-9)
  method, batch, key = methods.get('mate_kd')(c, env), _batch(rng), jax.random.key(0)
  grad = jax.jit(jax.value_and_grad(method.players['generator'].loss, has_aux=True))
  (loss, (_, metrics)), grads = grad(params, (), batch, key)
  soft = env.task.gap(
    *(
      jax.jit(n)(params[k], batch).logits
      for k, n in (('student', env.student), ('teacher', env.teacher))
    )
  ).mean()
  np.testing.assert_allclose(metrics['found'], soft, rtol=1e-5)
  np.testing.assert_allclose(loss, -soft, rtol=1e-5)
  assert metrics['hidden'] == 0
  assert all((g == 0).all() for g in jax.tree.leaves(grads['generator']))
  _, memory = method.init(key, params, None)
  _, (_, metrics) = jax.jit(method.players['student'].loss)(params, memory, batch, key)
  assert metrics['moved'] == 0
  np.testing.assert_allclose(metrics['augmented'], metrics['soft'], rtol=1e-6)


def test_looking_sampled_ids_up_is_entering_their_one_hots(rng):
  env, params = _env()
  batch, (k_fill, k_sample) = _batch(rng), jax.random.split(jax.random.key(1))
  fill = mate_kd.blanks(_fields(), env)
  slots, logits, _ = jax.jit(lambda p, b: fill(p, b, k_fill, None))(params, batch)

  def loss(student, hard_tokens):
    net = env.student
    if hard_tokens:
      ids, _ = augment.gumbel_draw(logits, k_sample)
      out = net(student, batch | dict(tokens=masking.put(batch['tokens'], slots, ids)))
    else:
      one_hot = augment.gumbel_one_hot(logits, k_sample)
      words = net.embed(student, one_hot)
      out = net.enter(
        student, batch, masking.put(net.embed(student, batch['tokens']), slots, words)
      )
    return losses.cross_entropy(out.logits, batch['label']).mean()

  run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  (a, da), (b, db) = (run(params['student'], hard) for hard in (True, False))
  np.testing.assert_allclose(a, b, rtol=1e-5)
  for x, y in zip(jax.tree.leaves(da), jax.tree.leaves(db), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def _written(rng, **changes):
  env, params = _env()
  method, batch = methods.get('mate_kd')(_fields(**changes), env), _batch(rng)
  write = mate_kd.view(_fields(**changes), env).call
  found, _ = jax.jit(lambda p, b, k: write(p, (), b, None, None, k))(
    params, batch, jax.random.key(int(rng.integers(1 << 30)))
  )
  assert set(method.players) == {'student', 'generator'}
  return batch, found


def test_only_ordinary_tokens_are_written_over_and_only_by_ordinary_ones(rng):
  batch, found = _written(rng, rho=0.9)
  old, new, open_ = (np.asarray(x) for x in (batch['tokens'], found.student, batch['maskable']))
  np.testing.assert_array_equal(new[~open_], old[~open_])
  assert (new[open_] >= tiny.SPECIAL).all() and (new != old).any()
  np.testing.assert_allclose(found.metrics['moved'], (new != old).sum() / open_.sum(), rtol=1e-6)
  np.testing.assert_array_equal(found.changed, (new != old).any(1))


def test_special_tokens_may_be_written_as_released(rng):
  specials = 0
  for _ in range(10):
    batch, found = _written(rng, rho=1.0, ordinary_only=False)
    specials += (np.asarray(found.student)[np.asarray(batch['maskable'])] < tiny.SPECIAL).sum()
  assert specials > 0


def test_what_does_not_fit_is_counted(rng):
  _, found = _written(rng, rho=0.5, slack=4.0)
  assert found.metrics['overflow'] == 0
  env, params = _env()
  fill = mate_kd.blanks(_fields(rho=0.3, slack=1e-6), env)
  batch = _batch(rng, rows=512)
  _, _, metrics = jax.jit(lambda p, b: fill(p, b, jax.random.key(0), None))(params, batch)
  assert metrics['overflow'] > 0 and 0 < metrics['hidden'] < 0.6


def _key(rng):
  return jax.random.key(int(rng.integers(1 << 30)))


def _reads(env, params, name, e_BLE, tokens):
  """Asserts that what a model encoded are its own vectors of these tokens."""
  np.testing.assert_array_equal(e_BLE, getattr(env, name).embed(params[name], tokens))


def test_the_generator_climbs_the_gap_of_both_models_on_one_text_of_its_own(rng):
  env, params = _env()
  c, seen = _fields(rho=0.6, gumbel=0.5, temperature=2.0), {}
  loss = mate_kd.adversary(c, written.spied(env, seen)).loss
  batch, key = _batch(rng), _key(rng)

  @jax.jit
  def got(generator):
    value, (_, metrics) = loss(params | dict(generator=generator), (), batch, key)
    return value, (metrics['found'], dict(seen))

  @jax.jit
  def want(generator):
    hots, hidden = written.text(c, env, params | dict(generator=generator), batch, key)
    gap = env.task.gap(*(out.logits for out in written.read(env, params, batch, hots)), 2.0).mean()
    return -gap, (gap, hots.argmax(-1), hidden)

  (value, (found, inputs)), slope = jax.value_and_grad(got, has_aux=True)(params['generator'])
  (minus, (gap, ids, hidden)), climb = jax.value_and_grad(want, has_aux=True)(params['generator'])
  np.testing.assert_allclose([value, found], [minus, gap], rtol=1e-4)
  assert max(np.abs(g).max() for g in jax.tree.leaves(climb)) > 1e-3
  tiny.near(slope, climb, 'generator')
  assert hidden.any() and (ids != batch['tokens']).any()
  masked = jnp.where(hidden, tiny.MASK, batch['tokens'])
  _reads(env, params, 'generator', inputs['generator'], masked)
  for name in ('student', 'teacher'):
    _reads(env, params, name, inputs[name], jnp.where(hidden, ids, batch['tokens']))


def test_what_the_student_learns_from_is_drawn_by_what_the_generator_makes_of_the_rest(rng):
  # All that is ordinary is hidden: each draw of words is from the same probabilities.
  env, params = _env()
  c, seen, many = _fields(rho=1.0, slack=4.0), {}, 3000
  row = {k: v[1:2] for k, v in _batch(rng).items()}
  write = mate_kd.view(c, written.spied(env, seen)).call

  def draw(key):
    view, _ = write(params, (), row, None, None, key)
    return view.student, view.teacher, seen['generator']

  ours, theirs, read = jax.jit(jax.vmap(draw))(jax.random.split(_key(rng), many))
  np.testing.assert_array_equal(ours, theirs)
  masked = jnp.where(row['maskable'], tiny.MASK, row['tokens'])
  for one in read[:3]:
    _reads(env, params, 'generator', one, masked)
  logits = jax.jit(env.generator)(params['generator'], row | dict(tokens=masked)).logits
  logits = jnp.where(env.ordinary[None, None], logits, -jnp.inf)
  p = np.asarray(jax.nn.softmax(logits), np.float64)[0, 1:-1]
  counts = (np.asarray(ours)[:, 0, 1:-1, None] == np.arange(tiny.VOCAB)).sum(0)
  assert (np.abs(counts - many * p) <= 6 * np.sqrt(many * p) + 6 * (p > 0)).all()


def test_other_places_are_hidden_and_other_words_drawn_by_each_key(rng):
  env, params = _env()
  seen, batch, keys = {}, _batch(rng, rows=32), jax.random.split(_key(rng), 2)
  write = mate_kd.view(_fields(rho=0.5), written.spied(env, seen)).call

  @jax.jit
  def run(key):
    view, _ = write(params, (), batch, None, None, key)
    masks = env.generator.embed(params['generator'], jnp.full_like(batch['tokens'], tiny.MASK))
    return view.student, (seen['generator'] == masks).all(-1)

  (ids, hidden), (other, elsewhere) = (jax.device_get(run(key)) for key in keys)
  assert (hidden != elsewhere).any()
  both = hidden & elsewhere
  assert both.any() and (ids[both] != other[both]).any()


@pytest.mark.parametrize('kind', ['classes', 'regression', 'multilabel'])
@pytest.mark.parametrize('objective', ['kl', 'cross_entropy', 'mse'])
def test_the_generator_raises_the_divergence_that_is_asked_for(rng, kind, objective):
  env, params = _env(kind)
  method = methods.get('mate_kd')(_fields(rho=1e-9, gen_objective=objective, gen_gap=0.7), env)
  batch = _batch(rng, kind=kind)
  s, t = _logits(env, params, batch)
  loss, _ = jax.jit(method.players['generator'].loss)(params, (), batch, jax.random.key(0))
  log = lambda z: z - np.log(np.exp(z).sum(1, keepdims=True))  # noqa: E731
  sig = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
  entropy = {
    'classes': lambda: -(np.exp(log(t)) * log(t)).sum(1),
    'regression': lambda: 0.0,
    'multilabel': lambda: -(sig(t) * np.log(sig(t)) + sig(-t) * np.log(sig(-t))).sum(1),
  }[kind]()
  crossed = {
    'classes': lambda: -(np.exp(log(t)) * log(s)).sum(1),
    'regression': lambda: ((s - t) ** 2).sum(1),
    'multilabel': lambda: -(sig(t) * np.log(sig(s)) + sig(-t) * np.log(sig(-s))).sum(1),
  }[kind]()
  want = {
    'kl': crossed - entropy,
    'cross_entropy': crossed,
    'mse': ((s - t) ** 2).mean(1),
  }[objective]
  np.testing.assert_allclose(loss, -0.7 * want.mean(), rtol=1e-4)


@pytest.mark.parametrize('objective', ['kl', 'mse'])
def test_against_a_frozen_student_the_divergence_rises(rng, objective):
  env, params = _env()
  c = _fields(rho=0.6, gen_rate=3e-2, gen_objective=objective, gen_turns=80, student_turns=1)
  method, mesh = methods.get('mate_kd')(c, env), sharding.make_mesh(1)
  game = train.start(method, params, tiny.dataset(), tiny.train_fields(), 81, mesh)
  state, found = game.state, []
  batch = sharding.put(tiny.batch(rng, rows=64), mesh)
  for _ in range(80):
    state, metrics = game.steps['generator'](state, game.frozen, batch, game.key)
    found.append(float(metrics['generator/found']))
  assert np.mean(found[-15:]) > 1.15 * np.mean(found[:5])


def test_dropout_is_switched_in_the_others_turn(rng):
  env, params = tiny.world()
  # Several keys: one draw of words may be the same with and without.
  batch, keys = _batch(rng), jax.random.split(jax.random.key(0), 4)

  def run(player, **changes):
    method = methods.get('mate_kd')(_fields(**changes), env)
    _, memory = method.init(keys[0], params, None)
    loss = jax.jit(method.players[player].loss)
    return [float(loss(params, memory, batch, key)[0]) for key in keys]

  assert run('generator', student_dropout=True) != run('generator', student_dropout=False)
  assert run('student', gen_dropout=True) != run('student', gen_dropout=False)


def test_no_generator_or_other_ids_are_refused_with_the_remedy():
  env, _ = tiny.world()
  with pytest.raises(ValueError, match='generator=True'):
    methods.get('mate_kd')(_fields(), env._replace(generator=None))
  env, _ = tiny.world(mismatch='7 of 60 token ids differ')
  with pytest.raises(ValueError, match='7 of 60 token ids differ'):
    methods.get('mate_kd')(_fields(), env)


WRONG = [('gen_objective', 'x'), ('gumbel', 0.0), ('rho', 1.5), ('gen_turns', -1)]


@pytest.mark.parametrize('field, value', WRONG)
def test_a_switch_or_number_out_of_range_is_refused_by_name(field, value):
  env, _ = tiny.world()
  with pytest.raises(ValueError, match=f'config.method.{field}='):
    methods.get('mate_kd')(_fields(**{field: value}), env)
