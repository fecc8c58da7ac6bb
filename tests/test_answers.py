"""What a frozen teacher says is computed once, found again, and the same as asked anew."""

import dataclasses
import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import answers, evaluate, jobs, methods, sharding
from kdjax.data import batches, tokens
from kdjax.methods import base, layers
from tests import tiny, toy

HEADS = dict(mlm=dict(student_head='mlm'), mlm_kd=dict(student_head='mlm', teacher_head='mlm'))
# They ask the teacher about the text alone: with its answers known, they need no teacher.
WITHOUT = ('annealing_kd', 'codir', 'continuation_kd', 'freelb', 'kd', 'pkd', 'rail_kd')


def _answers(env, params, batch, asks):
  out = jax.jit(env.teacher)(params['teacher'], batch)
  found = dict(teacher_logits=out.logits)
  if asks != 'logits':
    states_NBD = layers.states(env.teacher, batch, out.hidden, asks)
    found['teacher_states'] = states_NBD.swapaxes(0, 1)
  return found


FEW = ('kd', 'codir')
each = pytest.mark.parametrize(
  'name',
  [
    pytest.param(n, marks=() if n in FEW else pytest.mark.slow)
    for n in methods.names()
    if n not in ('finetune', 'mlm')
  ],
)


@each
def test_known_answers_change_no_loss_and_no_gradient(rng, name):
  env, params = tiny.world(**HEADS.get(name, {}))
  c = tiny.fields(name)
  if 'teacher_dropout' in c:
    c.teacher_dropout = False
  method = methods.get(name)(c, env)
  if name == 'mlm_kd':  # its teacher reads masked text, another one each time
    assert not method.asks
    return
  batch = tiny.batch(rng)
  data = tiny.dataset()
  extra, memory = method.init(jax.random.key(0), params, base.Data(data.index, data.label, 8, 400))
  params |= extra
  known = batch | _answers(env, params, batch, method.asks)
  key = jax.random.key(int(rng.integers(1 << 30)))
  for player in method.players.values():
    owned = {k: params[k] for k in player.owns}

    @jax.jit
    def ask(owned, batch, teacher, player=player):
      rest = params | dict(teacher=teacher)
      loss = lambda own: player.loss(rest | own, memory, batch, key)  # noqa: E731
      return jax.value_and_grad(loss, has_aux=True)(owned)

    live, given = (ask(owned, b, params['teacher']) for b in (batch, known))
    for a, b in zip(*map(jax.tree.leaves, (live, given)), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    if name in WITHOUT:
      nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params['teacher'])
      assert np.isfinite(ask(owned, known, nothing)[0][0])


def _data(rng, rows=50):
  ids = rng.integers(tiny.SPECIAL, tiny.VOCAB, (rows, tiny.LENGTH)).astype(np.int32)
  length = rng.integers(3, tiny.LENGTH + 1, rows).astype(np.int32)
  read = tokens.Tokens(ids, np.zeros_like(ids), length)
  index = rng.permutation(rows).astype(np.int32)
  return batches.Dataset(read, index % 3, index, np.ones(tiny.VOCAB, bool))


@pytest.fixture
def ask(rng, tmp_path, monkeypatch):
  """(call of answers.known, rows that were computed by each)."""
  monkeypatch.setattr(answers, '_CHUNK', 16)
  env, params = tiny.world()
  data, computed, real = _data(rng), [], evaluate.logits

  def logits(run, params, part, *sizes):
    computed.append(len(part.index))
    return real(run, params, part, *sizes)

  monkeypatch.setattr(evaluate, 'logits', logits)

  def call(asks='first', scale=1.0, data=data, net=env.teacher):
    computed.clear()
    own = jax.tree.map(lambda x: x * scale, params['teacher'])
    mesh = sharding.make_mesh()
    return answers.known(net, own, data, asks, tmp_path, 8, (6, tiny.LENGTH), mesh)

  call.computed, call.data, call.env, call.params = computed, data, env, params
  return call


@pytest.mark.parametrize('asks', ['logits', *layers.POOLS])
def test_answers_are_those_of_the_teacher_and_are_found_again(ask, asks):
  first = ask(asks)
  assert ask.computed == [16, 16, 16, 2]
  again = ask(asks)
  assert not ask.computed
  batch = next(batches.train_batches(ask.data._replace(known=again), 50, (), 0))
  want = _answers(ask.env, ask.params, {k: jnp.asarray(v) for k, v in batch.items()}, asks)
  assert first.keys() == again.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(first[name], again[name])
    np.testing.assert_allclose(batch[name], value, rtol=1e-5, atol=1e-5)


def test_another_teacher_another_pool_or_other_rows_are_asked_anew(ask):
  ask()
  for other in (dict(asks='mean'), dict(scale=1.5), dict(data=ask.data._replace(
    tokens=ask.data.tokens._replace(length=ask.data.tokens.length - 1)
  ))):  # fmt: skip
    ask(**other)
    assert sum(ask.computed) == 50
  ask()
  assert not ask.computed


def test_the_same_weights_of_another_function_are_asked_anew(ask):
  first = ask('logits')['teacher_logits']
  real = ask.env.teacher.encode

  def encode(*args, **more):
    out = real(*args, **more)
    return out._replace(logits=2 * out.logits)

  again = ask('logits', net=dataclasses.replace(ask.env.teacher, encode=encode))
  assert sum(ask.computed) == len(first)
  np.testing.assert_allclose(again['teacher_logits'], 2 * np.asarray(first), rtol=1e-6)


def test_of_states_that_are_too_large_logits_are_kept(ask, monkeypatch):
  monkeypatch.setattr(answers, '_LARGEST', 4 * 50 * 3)
  assert ask().keys() == {'teacher_logits'}


def test_a_full_disk_is_an_error_that_names_the_file(ask, tmp_path):
  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  (tmp_path / 'room').mkdir()
  real = answers._sum

  def filled(rows):  # from the second chunk on
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limit[1]))
    return real(rows)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(answers, '_sum', filled)
    try:
      with pytest.raises(OSError, match=r'teacher-.*npy: File too large. Make room'):
        ask()
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limit)
  ask()
  assert ask.computed == [16, 16, 2]


def test_a_kill_costs_a_chunk(ask, tmp_path):
  ask()
  (sums,) = tmp_path.glob('teacher-*.json')
  sums.write_text(json.dumps(json.loads(sums.read_text())[:2]))
  ask()
  assert ask.computed == [16, 2]


@pytest.mark.parametrize('where', ['row', 'header', 'length', 'sums'])
def test_what_is_damaged_is_computed_anew_and_said(ask, tmp_path, caplog, where):
  want = {k: np.array(v) for k, v in ask().items()}
  (path,) = tmp_path.glob('teacher-*.npy')
  data = bytearray(path.read_bytes())
  if where == 'row':
    data[-1] ^= 1
  elif where == 'header':
    data[2] ^= 255
  elif where == 'length':
    data = data[: len(data) // 2]
  if where == 'sums':
    path.with_suffix('.json').write_text('{"a": ')
  path.write_bytes(data)
  with caplog.at_level('WARNING', logger='kdjax'):
    found = ask()
  assert 'damaged' in caplog.text
  assert sum(ask.computed) == (2 if where == 'row' else 50)
  for name, value in want.items():
    np.testing.assert_array_equal(found[name], value)


def test_a_run_that_knows_the_answers_ends_as_one_that_asks(rng, tmp_path):
  changes = {'train.steps': 8, 'train.eval_every': 8, 'teacher.finetune': False}
  c = toy.config('kd', tmp_path, rng, **changes)
  found = {}
  for how in ('auto', 'never'):
    with c.unlocked():
      c.teacher.cache = how
    found[how] = jobs.run(jobs.prepare(c, tmp_path / how))['kd']['validation']
  assert list((tmp_path / 'auto/cache').glob('teacher-*.npy'))
  assert not list((tmp_path / 'never/cache').glob('teacher-*.npy'))
  assert found['auto'] == pytest.approx(found['never'], abs=1e-5)


@pytest.mark.parametrize('seeds', [1, 2])
def test_seeds_that_share_a_program_share_the_answers(rng, tmp_path, seeds):
  """Two thirds of an epoch of one seed need no row twice, those of two seeds do."""
  changes = {'train.steps': 4, 'teacher.finetune': False, 'compare': '', 'seeds': seeds}
  c = toy.config('kd', tmp_path, rng, **changes)
  jobs.run(jobs.prepare(c, tmp_path / 'work'))
  assert len(list((tmp_path / 'work/cache').glob('teacher-*.npy'))) == seeds - 1
