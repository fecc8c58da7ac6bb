"""CoDIR: the released module's numbers, which negatives are drawn, and what the banks keep."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import codir as shipped
from kdjax import env as environments
from kdjax import losses, methods, net, sharding, tasks, train
from kdjax.methods import banks, base, blend, codir, kd, layers
from tests import tiny

F32 = jnp.float32


def _sines(shape, a, b):
  return jnp.asarray(np.sin(a * np.arange(1, np.prod(shape) + 1) + b).reshape(shape), F32)


def _released():
  """Inputs of a worked example, n = 6, K = 3: features, heads, banks, rows."""
  f = dict(student=_sines((2, 4), 0.37, 0.7), teacher=_sines((2, 5), 0.41, 0.8))
  heads = dict(
    student=dict(kernel=_sines((3, 4), 0.7, 0.1).T, bias=_sines((3,), 0.3, 0.2)),
    teacher=dict(kernel=_sines((3, 5), 0.5, 0.3).T, bias=_sines((3,), 0.9, 0.4)),
  )
  stored = dict(student=_sines((6, 3), 1.1, 0.5), teacher=_sines((6, 3), 1.3, 0.6))
  return f, heads, stored, jnp.asarray([[1, 0, 3, 5], [4, 2, 0, 5]])


def test_the_contrast_gives_the_numbers_of_the_released_module():
  # The released module (github intersun/CoDIR, commit 5b2abd4), run in float64.
  f, heads, stored, rows = _released()

  @jax.jit
  def step(f, stored, log_z):
    def loss(student):
      v = dict(student=student, teacher=f['teacher'])
      v = {k: losses.unit(layers.project(heads[k], x)) for k, x in v.items()}
      loss_B, z = codir.nce(v, stored, log_z, rows, n=6, tau=0.07)
      return loss_B.mean(), (z, v)

    (value, (z, v)), grad = jax.value_and_grad(loss, has_aux=True)(f['student'])
    return value, grad, z, {k: banks.update(stored[k], rows[:, 0], v[k], 0.5) for k in stored}

  value, grad, log_z, after = step(f, stored, jnp.full(2, jnp.nan, F32))
  np.testing.assert_allclose(value, 8.6448188, rtol=1e-5)
  np.testing.assert_allclose(np.exp(log_z), [10.947238, 5679.0459], rtol=1e-5)
  want = [[0.4513, 0.3812, 0.1318, -0.1795], [2.4526, 0.6609, -1.4416, -2.8661]]
  np.testing.assert_allclose(grad, want, atol=1e-4)
  np.testing.assert_allclose(after['student'][1], [-0.2253, -0.4226, 0.8779], atol=1e-4)
  np.testing.assert_allclose(after['teacher'][4], [-0.8208, 0.4859, 0.3001], atol=1e-4)
  value, _, again, _ = step(f, after, log_z)
  np.testing.assert_allclose(value, 5.1048151, rtol=1e-5)
  np.testing.assert_array_equal(again, log_z)


@pytest.mark.parametrize('K, want', [(1, 2 * np.log(2)), (3, 2.249341), (100, 5.610154)])
@pytest.mark.parametrize('n, tau', [(200, 0.07), (1000, 1.0)])
def test_a_bank_of_zeros_costs_what_chance_does(rng, K, want, n, tau):
  v = {k: losses.unit(jnp.asarray(rng.normal(size=(4, 8)), F32)) for k in ('student', 'teacher')}
  stored = {k: jnp.zeros((n, 8)) for k in v}
  rows = jnp.asarray(rng.integers(0, n, (4, 1 + K)))
  loss_B, log_z = codir.nce(v, stored, jnp.full(2, jnp.nan, F32), rows, n, tau)
  np.testing.assert_allclose(loss_B, np.full(4, want), rtol=2e-4)  # the released 1e-7 counts
  np.testing.assert_allclose(log_z, np.log([n, n]), rtol=1e-5)
  np.testing.assert_allclose(codir.info(v, stored, rows, tau), np.full(4, np.log(1 + K)), rtol=1e-5)
  assert codir.closeness(v, stored, rows)['ahead'] == 0


def test_a_vector_equal_to_its_positive_and_opposed_to_the_rest_is_ahead(rng):
  v = losses.unit(jnp.asarray(rng.normal(size=(3, 8)), F32))
  bank = jnp.concatenate([v, -v])
  rows = jnp.asarray([[0, 3, 3], [1, 4, 4], [2, 5, 5]])
  metrics = codir.closeness(*[dict(student=x, teacher=x) for x in (v, bank)], rows)
  np.testing.assert_allclose(
    [metrics[k] for k in ('positive', 'negative', 'ahead')], [1, -1, 1], 1e-5
  )


def test_written_rows_are_unit_and_the_others_bit_identical(rng):
  bank = jnp.asarray(rng.normal(size=(10, 4)), F32)
  v = losses.unit(jnp.asarray(rng.normal(size=(3, 4)), F32))
  row = jnp.asarray([7, 0, 4])
  rest = np.setdiff1d(np.arange(10), row)
  for momentum, want in ((1.0, losses.unit(bank[row])), (0.0, v), (0.5, None)):
    after = banks.update(bank, row, v, momentum)
    np.testing.assert_array_equal(after[rest], bank[rest])
    np.testing.assert_allclose(np.linalg.norm(after[row], axis=1), np.ones(3), rtol=1e-6)
    if want is not None:
      np.testing.assert_allclose(after[row], want, rtol=1e-6)
  assert not jax.grad(lambda v: banks.update(bank, row, v, 0.5).sum())(v).any()


def test_a_fresh_bank_is_as_released():
  bank = np.asarray(banks.bank(jax.random.key(0), 2000, 128))
  assert bank.shape == (2048, 128) and bank.dtype == np.float32
  assert np.abs(bank).max() <= 0.1530932 < 1.001 * np.abs(bank).max()
  np.testing.assert_allclose(np.square(bank).sum(1).mean(), 1, rtol=0.01)


# Negatives.


def _labels(rng, kind, n=60):
  return {
    'classes': lambda: rng.permutation(np.arange(n, dtype=np.int32) % 3),
    'regression': lambda: rng.integers(0, 26, n).astype(np.float32) / 5,  # STS-B's ties
    'multilabel': lambda: rng.integers(0, 2, (n, 3)).astype(np.float32),
  }[kind]()


@pytest.mark.parametrize('kind', tasks.KINDS)
def test_the_shelf_leaves_out_just_the_rows_of_like_labels(rng, kind):
  label, margin = _labels(rng, kind), 0.5
  given = rng.permutation(1000)[:60].astype(np.int32)  # rows of a larger source, out of order
  index, order, low, high = (np.asarray(x) for x in banks.shelve(given, label, margin))
  np.testing.assert_array_equal(index, np.sort(given))
  np.testing.assert_array_equal(np.sort(order), np.arange(60))
  label = label[np.argsort(given)]  # by bank row
  for row in range(60):
    if kind == 'regression':
      like = np.abs(label - label[row]) <= margin * label.std()
    else:
      like = (label == label[row]) if kind == 'classes' else (label == label[row]).all(1)
    np.testing.assert_array_equal(np.sort(order[low[row] : high[row]]), np.flatnonzero(like))


@pytest.mark.parametrize('K', [1, 5, 19])
def test_negatives_are_distinct_and_of_other_labels(rng, K):
  label = _labels(rng, 'classes')
  _, order, low, high = banks.shelve(np.arange(60), label, 0.0)
  key = jax.random.key(int(rng.integers(2**31)))
  places = jax.jit(banks.draw, static_argnums=(3, 4))(key, low, high, 60, K)
  rows = np.asarray(order[places])
  assert rows.shape == (60, K)
  assert (label[rows] != label[:, None]).all()
  assert all(len(set(row)) == K for row in rows)


def test_too_few_other_labels_are_drawn_with_replacement_and_enough_ones_without(rng):
  low, high = jnp.asarray([0, 2, 7, 0]), jnp.asarray([10, 5, 12, 11])  # 2, 9, 7, 1 are left of 12
  for seed in rng.integers(2**31, size=20):
    rows = np.asarray(banks.draw(jax.random.key(int(seed)), low, high, 12, 7))
    assert all(((row < a) | (row >= b)).all() for row, a, b in zip(rows, low, high, strict=True))
    assert set(rows[0]) <= {10, 11} and len(set(rows[1])) == 7
    assert set(rows[2]) == set(range(7)) and set(rows[3]) == {11}


@pytest.mark.parametrize('K', [3, 15])
def test_every_other_row_is_as_likely(K):
  # 10 are left of 14; 15 of them is with replacement.
  rows = 6000
  low, high = jnp.full(rows, 5), jnp.full(rows, 9)
  places = banks.draw(jax.random.key(11), low, high, 14, K)
  count = np.bincount(np.asarray(places).ravel(), minlength=14)
  assert not count[5:9].any()
  count = np.delete(count, range(5, 9))
  chi = ((count - rows * K / 10) ** 2 / (rows * K / 10)).sum()
  assert chi < 40  # nine degrees of freedom: one in a hundred thousand
  if K == 3:  # so is every set of three
    places = np.sort(np.asarray(jnp.where(places < 5, places, places - 4)), 1)
    sets = np.unique(places, axis=0, return_counts=True)[1]
    assert len(sets) == 120
    assert ((sets - rows / 120) ** 2 / (rows / 120)).sum() < 200


REFUSED = [
  (np.zeros(8, np.int32), 'row 0 has no negative'),
  (np.asarray([0, 0, 1, -1], np.int32), '1 training labels are missing'),
  (np.asarray([0, 1, np.nan, 2], np.float32), '1 training labels are missing'),
  (np.asarray([0, 1, 2.1, 1.05], np.float32), r'row 1 has no negative.*config.method.margin=2'),
  (np.ones((4, 3), np.float32), 'row 0 has no negative'),
]


@pytest.mark.parametrize('label, why', REFUSED)
def test_data_without_negatives_is_refused_with_the_reason(label, why):
  with pytest.raises(ValueError, match=why):
    banks.shelve(np.arange(len(label)), label, 2.0)


def test_an_index_that_comes_twice_is_refused():
  with pytest.raises(ValueError, match='index 7'):
    banks.shelve(np.asarray([3, 7, 1, 7]), np.asarray([0, 1, 0, 1]), 0.0)


# The term, as the step calls it.


def _term(kind='classes', dtype='float32', data=None, **changes):
  """(term, env, params with heads, memory), tiny."""
  env, params = tiny.world(kind, dtype=dtype)
  c = ConfigDict(shipped.TERM | changes)
  term = codir.term(c, env)
  data = data or tiny.dataset(kind)
  extra, memory = term.init(jax.random.key(1), params, data)
  return term, env, params | extra, memory


def _outs(env, params, batch):
  return env.student(params['student'], batch), env.teacher(params['teacher'], batch)


def _call(term, env):
  return jax.jit(
    lambda params, memory, batch, key: term.call(
      params, memory, batch, *_outs(env, params, batch), key
    )
  )


@pytest.mark.parametrize('contrast', ['nce', 'info'])
@pytest.mark.parametrize('kind', tasks.KINDS)
def test_the_term_is_the_loss_of_its_own_parts(rng, contrast, kind):
  data = tiny.dataset(kind)
  data = data._replace(index=rng.permutation(500)[:40].astype(np.int32))
  term, env, params, memory = _term(kind, data=data, contrast=contrast, negatives=4, weight=0.3)
  batch = tiny.batch(rng, kind=kind) | dict(index=data.index[11:19])
  key = jax.random.key(5)
  value, after, metrics = _call(term, env)(params, memory, batch, key)

  rows = np.searchsorted(np.sort(data.index), batch['index'])
  shelf = memory['shelf']
  places = banks.draw(key, shelf['low'][rows], shelf['high'][rows], 40, 4)
  rows_BK1 = np.concatenate([rows[:, None], shelf['order'][places]], 1)
  v = {}
  for name, out, chosen in zip(
    ('student', 'teacher'), _outs(env, params, batch), ((1,), (1,)), strict=True
  ):
    x = np.concatenate([out.hidden[l][:, 0] for l in chosen], 1)
    head = params['codir_heads'][name]
    x = np.asarray(x @ head['kernel'] + head['bias'][None], np.float64)
    v[name] = x / np.linalg.norm(x, axis=1, keepdims=True)

  want, c = 0, 4 / 40
  for anchor, bank in (('student', 'teacher'), ('teacher', 'student')):
    stored = np.asarray(memory[bank]['bank'], np.float64)[rows_BK1]
    p = np.exp((v[anchor][:, None] * stored).sum(-1) / 0.07)
    if contrast == 'info':
      want -= np.log(p[:, 0] / p.sum(1)).mean() / 2
    else:
      p = p / (40 * p.mean())
      own, others = p[:, 0] / (p[:, 0] + c + 1e-7), c / (p[:, 1:] + c + 1e-7)
      want -= (np.log(own) + np.log(others).sum(1)).mean() / 2
  np.testing.assert_allclose(metrics['contrast'], want, rtol=1e-4)
  np.testing.assert_allclose(value, 0.3 * want, rtol=1e-4)
  for name in v:
    old, new = np.asarray(memory[name]['bank']), np.asarray(after[name]['bank'])
    row = 0.5 * old[rows] + 0.5 * v[name]
    row /= np.linalg.norm(row, axis=1, keepdims=True)
    np.testing.assert_allclose(new[rows], row, rtol=1e-4, atol=1e-6)
    others = np.setdiff1d(np.arange(len(old)), rows)
    np.testing.assert_array_equal(new[others], old[others])


def test_labels_are_the_stored_ones_not_the_batchs(rng):
  # A view may carry other labels.
  term, env, params, memory = _term()
  batch = tiny.batch(rng)
  other = batch | dict(label=(batch['label'] + 1) % 3)
  found = [_call(term, env)(params, memory, b, jax.random.key(0))[0] for b in (batch, other)]
  np.testing.assert_array_equal(*found)


@pytest.mark.parametrize('contrast', ['nce', 'info'])
def test_both_heads_and_the_student_learn_and_no_bank_does(rng, contrast):
  term, env, params, memory = _term(contrast=contrast)
  batch = tiny.batch(rng)

  def both(params):  # the loss, and something of all that is written
    outs = _outs(env, params, batch)
    loss, after, _ = term.call(params, memory, batch, *outs, jax.random.key(0))
    return jnp.stack([loss, sum(x.sum() for x in jax.tree.leaves(after) if x.dtype == F32)])

  grads = jax.jit(jax.jacrev(both))(params)
  learn = lambda tree: [np.abs(x[0]).max() > 0 for x in jax.tree.leaves(tree)]  # noqa: E731
  assert all(learn(grads['codir_heads'])) and any(learn(grads['student']))
  assert not any(x[1].any() for x in jax.tree.leaves(grads))


def test_layers_are_those_of_the_released_code():
  assert layers.choose('all', 6) == (1, 2, 3, 4, 5, 6)
  assert layers.choose('odd', 12) == (1, 3, 5, 7, 9, 11)
  assert shipped.TERM['student_layers'] == 'all' and shipped.TERM['teacher_layers'] == 'odd'
  hidden = jnp.broadcast_to(jnp.arange(13.0)[:, None, None, None], (13, 2, 5, 3))
  student, _ = net.split(tiny.model(1, 16, 3, 0))
  got = layers.pooled(student, {}, hidden, layers.choose('odd', 12), 'first')
  np.testing.assert_array_equal(got, np.repeat([[1.0, 3, 5, 7, 9, 11]] * 2, 3, 1))


def test_without_weight_it_is_kd(rng):
  env, params = tiny.world()
  env = env._replace(student=environments.quiet(env.student))
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  ours = methods.get('codir')(tiny.fields('codir', weight=0.0), env)
  fields = tiny.fields('codir')
  plain = kd.make(ConfigDict({k: fields[k] for k in ('hard', 'soft', 'temperature')}), env)
  extra, memory = ours.init(jax.random.key(0), params, tiny.dataset())

  def grads(method, memory):
    def loss(student):
      everything = params | extra | dict(student=student)
      return method.players['student'].loss(everything, memory, batch, jax.random.key(0))[0]

    return jax.jit(jax.grad(loss))(params['student'])

  for a, b in zip(
    jax.tree.leaves(grads(ours, memory)), jax.tree.leaves(grads(plain, ())), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('on', [False, True])
def test_a_teacher_with_dropout_is_asked_anew(rng, on):
  env, params = tiny.world()
  keys, encode = [], env.teacher.encode
  teacher = dataclasses.replace(env.teacher, encode=lambda *a: keys.append(a[-1]) or encode(*a))
  method = methods.get('codir')(
    tiny.fields('codir', teacher_dropout=on), env._replace(teacher=teacher)
  )
  extra, memory = method.init(jax.random.key(0), params, tiny.dataset())
  keys.clear()
  loss = method.players['student'].loss
  jax.eval_shape(loss, params | extra, memory, tiny.batch(rng), jax.random.key(0))
  assert [key is not None for key in keys] == [on] and method.asks == ('' if on else 'first')


def test_a_teachers_dropout_is_drawn_by_no_key_of_the_students(rng):
  env, params = tiny.world()
  keys = {}

  def spied(name):
    net = getattr(env, name)
    encode = lambda *a: (keys.setdefault(name, a[-1]), net.encode(*a))[1]  # noqa: E731
    return dataclasses.replace(net, encode=encode)

  env = env._replace(student=spied('student'), teacher=spied('teacher'))
  method = methods.get('codir')(tiny.fields('codir', teacher_dropout=True), env)
  extra, memory = method.init(jax.random.key(0), params, tiny.dataset())
  keys.clear()
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  key = jax.random.key(int(rng.integers(1 << 30)))
  method.players['student'].loss(params | extra, memory, batch, key)
  # A split's n-th key is that of folding in n.
  theirs = jax.random.key_data(jax.random.split(keys['student'], 99))
  assert not (theirs == jax.random.key_data(keys['teacher'])[None]).all(1).any()


def _alike(memory):
  """With equal rows in a bank and a Z that is set: it does not matter which are drawn, or when."""
  equal = lambda x: jnp.broadcast_to(losses.unit(x[:1]), x.shape)  # noqa: E731
  stored = {name: dict(bank=equal(memory[name]['bank'])) for name in codir.MODELS}
  return memory | stored | dict(log_z=jnp.asarray([3.0, 4.0]))


@pytest.mark.parametrize('per, ratio', [('example', 1.0), ('batch', 0.5)])
def test_the_released_weight_halves_as_the_batch_doubles(rng, per, ratio):
  batch, data, found = tiny.batch(rng), tiny.dataset(), []
  twice = {k: np.concatenate([v, v]) for k, v in batch.items()} | dict(
    index=np.arange(16, dtype=np.int32)
  )
  for rows in (batch, twice):
    known = base.Data(data.index, data.label, len(rows['index']), 400)
    term, env, params, memory = _term(data=known, per=per, weight=2.0)
    found.append(_call(term, env)(params, _alike(memory), rows, jax.random.key(0))[0])
  np.testing.assert_allclose(found[1], ratio * found[0], rtol=1e-5)


@pytest.mark.parametrize('per', ['example', 'batch'])
def test_accumulated_parts_weigh_as_their_whole_batch_does(rng, per):
  env, params = tiny.world()
  env, mesh = env._replace(student=environments.quiet(env.student)), sharding.make_mesh(1)
  fields = tiny.fields('codir', per=per, weight=float(rng.uniform(1, 4)), momentum=1.0)
  method, batch, found = methods.get('codir')(fields, env), tiny.batch(rng), []
  for parts in (1, 2, 4):
    own = tiny.train_fields(accumulate=parts, clip=0.0)
    game = train.start(method, params, tiny.dataset(), own, 400, mesh)
    state = game.state._replace(memory=dict(term=_alike(game.state.memory['term'])))
    rows = sharding.put(batch, mesh)
    state, metrics = game.steps['student'](state, game.frozen, rows, game.key)
    found.append((metrics, state.opt))  # its first moment is a tenth of the gradient
  for parted in found[1:]:
    tiny.near(*jax.device_get((parted, found[0])), per)


def test_z_is_set_by_the_first_batch_alone(rng):
  term, env, params, memory = _term()
  batches = [tiny.batch(rng) for _ in range(2)]
  _, first, _ = _call(term, env)(params, memory, batches[0], jax.random.key(0))
  _, second, _ = _call(term, env)(params, first, batches[1], jax.random.key(1))
  assert np.isnan(memory['log_z']).all() and np.isfinite(first['log_z']).all()
  np.testing.assert_array_equal(first['log_z'], second['log_z'])


def _start(devices=1, dtype='float32', rate=3e-4, **changes):
  env, params = tiny.world(dtype=dtype)
  mesh = sharding.make_mesh(devices)
  method = methods.get('codir')(tiny.fields('codir', **changes), env)
  return train.start(method, params, tiny.dataset(), tiny.train_fields(rate=rate), 400, mesh), mesh


def test_banks_lie_split_over_the_devices_and_hold_the_same(rng):
  batches = [tiny.batch(rng) for _ in range(2)]
  ends = []
  for devices in (1, 4):
    game, mesh = _start(devices)
    state = game.state
    for batch in batches:
      state, _ = game.steps['student'](state, game.frozen, sharding.put(batch, mesh), game.key)
    memory = state.memory['term']
    for name in ('student', 'teacher'):
      bank = memory[name]['bank']
      assert bank.sharding.is_equivalent_to(sharding.rows(mesh), bank.ndim)
      assert {s.data.shape for s in bank.addressable_shards} == {(128 // devices, 128)}
    assert memory['shelf']['order'].sharding.is_fully_replicated
    ends.append(jax.device_get(memory))
  for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)


def test_no_device_gathers_a_whole_bank(rng):
  game, mesh = _start(4, negatives=4)  # fewer rows than the bank's: XLA moves the smaller
  batch = sharding.put(tiny.batch(rng), mesh)
  text = game.steps['student'].lower(game.state, game.frozen, batch, game.key).compile().as_text()
  assert 'f32[32,128]' in text  # a device's part of a bank
  assert 'f32[128,128]' not in text


def test_banks_stay_float32_under_bfloat16(rng):
  game, mesh = _start(dtype='bfloat16')
  batch = sharding.put(tiny.batch(rng), mesh)
  state, _ = game.steps['student'](game.state, game.frozen, batch, game.key)
  memory = state.memory['term']
  assert memory['log_z'].dtype == memory['student']['bank'].dtype == np.float32


@pytest.mark.parametrize('contrast', ['nce', 'info'])
def test_it_learns_which_teacher_is_its_own(contrast):
  # The same eight rows again and again: their positives come ahead of all negatives.
  rng = np.random.default_rng(0)
  game, mesh = _start(rate=3e-3, contrast=contrast, weight=1.0, negatives=16)
  batch, state, log = sharding.put(tiny.batch(rng), mesh), game.state, []
  for _ in range(60):
    state, metrics = game.steps['student'](state, game.frozen, batch, game.key)
    log.append(metrics)
  log = jax.device_get(log)
  ahead = [row['student/ahead'] for row in log]
  assert np.mean(ahead[:1]) < 0.7 < np.mean(ahead[-10:])
  assert log[-1]['student/contrast'] < 0.7 * log[0]['student/contrast']
  assert log[-1]['student/positive'] > log[-1]['student/negative'] + 0.3


# Beside AugPro.


@pytest.mark.parametrize('on', blend.ON)
def test_beside_augpro_it_reads_what_it_is_told_and_writes_once(rng, on):
  env, params = tiny.world()
  env = env._replace(student=environments.quiet(env.student))
  fields = tiny.fields('augpro_codir', forbid_own=True)
  assert fields.name == 'augpro'
  fields.also.on = on
  method = methods.get('augpro')(fields, env)
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  extra, memory = method.init(jax.random.key(0), params, tiny.dataset())
  loss = jax.jit(method.players['student'].loss)
  _, (after, metrics) = loss(params | extra, memory, batch, jax.random.key(2))
  assert {'moved', 'augmented', 'contrast', 'positive', 'negative', 'ahead'} <= set(metrics)
  assert ('contrast_new' in metrics) == (on == 'both')
  term = codir.term(fields.also, env)
  read = _outs(env, params, batch)
  _, alone, _ = jax.jit(lambda *a: term.call(*a))(
    params | extra, memory['term'], batch, *read, jax.random.key(0)
  )
  of_text = all(
    np.allclose(after['term'][k]['bank'], alone[k]['bank'], atol=1e-4)
    for k in ('student', 'teacher')
  )
  assert of_text == (on != 'new')


WRONG = [('contrast', 'x'), ('per', 'x'), ('pool', 'max'), ('negatives', 0), ('tau', 0.0)]
WRONG += [('dims', 0), ('momentum', 1.5), ('margin', -1.0), ('margin', float('nan'))]
WRONG += [('temperature', 0.0)]


@pytest.mark.parametrize('field, value', WRONG)
def test_a_switch_or_number_out_of_range_is_refused_by_name(field, value):
  env, _ = tiny.world()
  with pytest.raises(ValueError, match=f'config.method.{field}='):
    methods.get('codir')(tiny.fields('codir', **{field: value}), env)


def test_other_layers_and_pools_run(rng):
  batch = tiny.batch(rng)
  for changes in (dict(pool='mean', teacher_layers='2,1'), dict(teacher_layers='skip')):
    term, env, params, memory = _term(student_layers='1', **changes)
    assert np.isfinite(_call(term, env)(params, memory, batch, jax.random.key(0))[0])
