"""What every method must do, one test over the directory of methods."""

import contextlib
import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import checkpoint, methods, sharding, stop, train
from kdjax import env as environments
from kdjax.methods import base
from tests import tiny
from tests.methods import crash

# As shipped, and with switches that change what is computed; the latter on fewer tests.
SHIPPED = [(name, {}) for name in tiny.method_names()]
VARIANTS = [
  *SHIPPED,
  ('augpro', dict(kind='fgsm')),
  ('augpro', dict(forbid_own=True, table='teacher')),
  ('backward_kd', dict(map='replace', round=0.2, rate=0.05, first_round=0.5)),
  ('codir', dict(contrast='info')),
  ('mlm_kd', dict(weight=0.5)),
  ('freelb', dict(kind='fgsm', target='teacher')),
  ('rail_kd', dict(kind='layer')),
  ('token_replace', dict(kind='mlm')),
]
each = pytest.mark.parametrize('name, changes', VARIANTS, ids=str)
# MATE-KD's game with more beside it: what compiles another program for them, with -m slow.
LONG = ('cilda', 'comkd')
shipped = pytest.mark.parametrize(
  'name, changes',
  [pytest.param(n, c, marks=pytest.mark.slow if n in LONG else ()) for n, c in SHIPPED],
  ids=str,
)


@functools.lru_cache(maxsize=6)  # the games of one method: conftest.py puts its tests side by side
def _cached(name, changes, task, devices, accumulate, quiet, dtype):
  """(method, game, mesh, traces) at tiny size, from the shipped fields; compiled once for all."""
  env, params = tiny.world(task, dtype=dtype, **tiny.HEADS.get(name, {}))
  if quiet:
    env = env._replace(student=environments.quiet(env.student))
  traces = []

  def counted(player):
    def loss(*args):
      traces.append(1)
      return player.loss(*args)

    return player._replace(loss=loss)

  method = methods.get(name)(tiny.fields(name, **dict(changes)), env)
  method = method._replace(players={k: counted(p) for k, p in method.players.items()})
  mesh = sharding.make_mesh(devices)
  fields = tiny.train_fields(accumulate=accumulate)
  return method, train.start(method, params, tiny.dataset(task), fields, 400, mesh), mesh, traces


@pytest.fixture(autouse=True, scope='module')
def games_of_one_visit():
  """A worker that leaves this file and comes back starts anew: conftest.py let the programs go."""
  yield
  _cached.cache_clear()


def _game(name, changes, task='classes', devices=1, accumulate=1, quiet=False, dtype='float32'):
  changes = tuple(sorted(changes.items()))
  return _cached(name, changes, task, devices, accumulate, quiet, dtype)


def _play(game, batches, state=None, first=0, key=None):
  """(state, metrics of each step), players in turn; the game can be played again."""
  method, game, mesh, _ = game
  players = list(method.players)
  state, log = jax.tree.map(jnp.copy, state or game.state), []
  for n, batch in enumerate(batches, first):
    step = game.steps[players[n % len(players)]]
    here = sharding.put(batch, mesh)
    state, metrics = step(state, game.frozen, here, game.key if key is None else key)
    log.append(jax.device_get(metrics))
  return jax.device_get(state), log


def _same(a, b):
  return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b))


@each
def test_the_teacher_never_moves_and_every_owned_parameter_does(rng, name, changes):
  game = _game(name, changes)
  before, frozen = jax.device_get((game[1].state.params, game[1].frozen))
  state, log = _play(game, [tiny.batch(rng) for _ in range(3)])
  assert 'teacher' in frozen and 'teacher' not in state.params
  assert _same(jax.device_get(game[1].frozen), frozen)
  for (path, start), end in zip(
    jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(state.params), strict=True
  ):
    assert not np.array_equal(start, end), path
  assert all(np.isfinite(v) for row in log for v in row.values())


@each
def test_a_turn_leaves_what_the_player_does_not_own_bit_for_bit(rng, name, changes):
  game = _game(name, changes)
  method, start = game[0], jax.device_get(game[1].state)
  for n, (who, player) in enumerate(method.players.items()):
    end, _ = _play(game, [tiny.batch(rng)], first=n)
    others = [k for k in start.params if k not in player.owns]
    assert _same([end.params[k] for k in others], [start.params[k] for k in others])
    rest = [k for k in method.players if k != who]
    assert _same([end.opt[k] for k in rest], [start.opt[k] for k in rest])
    assert not _same([end.params[k] for k in player.owns], [start.params[k] for k in player.owns])


@each
def test_one_trace_per_player(rng, name, changes):
  game = _game(name, changes)
  _play(game, [tiny.batch(rng) for _ in range(4)])
  assert len(game[3]) == len(game[0].players)


@each
def test_the_same_seed_gives_the_same_run_and_another_does_not(rng, name, changes):
  game, batches = _game(name, changes), [tiny.batch(rng) for _ in range(2)]
  keys = [jax.random.key(seed) for seed in (3, 3, 4)]
  runs = [_play(game, batches, key=key)[0].params for key in keys]
  assert _same(runs[0], runs[1])
  assert not _same(runs[0], runs[2])  # dropout at the least


@pytest.mark.parametrize(
  'name, changes',
  [pytest.param(n, c, marks=pytest.mark.slow if n == 'comkd' else ()) for n, c in SHIPPED],
  ids=str,
)
def test_one_device_equals_four(rng, name, changes):
  batches = [tiny.batch(rng) for _ in range(2)]
  one, four = (_play(_game(name, changes, devices=n), batches)[1] for n in (1, 4))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)


@shipped
def test_scores_are_learned_in_bfloat16_and_in_accumulated_parts(rng, name, changes):
  game = _game(name, changes, 'regression', accumulate=2, dtype='bfloat16')
  batches = [tiny.batch(rng, kind='regression') for _ in game[0].players]
  state, log = _play(game, batches)
  assert int(state.step) == len(batches)
  assert all(np.isfinite(v) for row in log for v in row.values())
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(state.params))
  assert not _same(state.params, jax.device_get(game[1].state.params))


@shipped
def test_label_sets_have_a_loss(rng, name, changes):
  env, params = tiny.world('multilabel', **tiny.HEADS.get(name, {}))
  method = methods.get(name)(tiny.fields(name, **changes), env)
  data, batch = tiny.dataset('multilabel'), tiny.batch(rng, kind='multilabel')
  extra, memory = method.init(jax.random.key(0), params, base.Data(data.index, data.label, 8, 400))
  for player in method.players.values():
    loss, _ = jax.jit(player.loss)(params | extra, memory, batch, jax.random.key(1))
    assert np.isfinite(loss) and loss != 0


@pytest.mark.parametrize('name', ['finetune', 'kd', 'augpro'])
def test_bfloat16_is_near(rng, name):
  # The gold-label term asks nothing of a projection, whose winners may differ in bfloat16.
  batches = [tiny.batch(rng) for _ in range(2)]
  runs = [_play(_game(name, {}, dtype=dtype), batches)[1] for dtype in ('float32', 'bfloat16')]
  np.testing.assert_allclose(*(run[0]['student/hard'] for run in runs), rtol=0.1)


@pytest.mark.parametrize('name', ['finetune', 'kd'])
def test_accumulation_changes_nothing_where_examples_are_independent(rng, name):
  batch = tiny.batch(rng)
  whole, parts = (_play(_game(name, {}, quiet=True, accumulate=n), [batch])[1][0] for n in (1, 4))
  for key in whole:
    np.testing.assert_allclose(whole[key], parts[key], rtol=1e-4)


@each
def test_four_steps_are_two_saved_and_restored_and_two(rng, tmp_path, name, changes):
  game, batches = _game(name, changes), [tiny.batch(rng) for _ in range(4)]
  whole, _ = _play(game, batches)
  half, _ = _play(game, batches[:2])
  store = checkpoint.Store(tmp_path)
  store.save(2, half, dict(note='half'))
  store.close()

  store = checkpoint.Store(tmp_path)
  state, meta = store.restore(game[1].state)
  store.close()
  assert meta == dict(note='half')
  end, _ = _play(game, batches[2:], state, 2)
  assert _same(whole, end)


# One player, two players, banks; all the others take minutes.
MORTAL = [
  pytest.param(name, {}, marks=() if name in ('kd', 'mate_kd', 'codir') else pytest.mark.slow)
  for name in tiny.method_names()
]


@pytest.mark.parametrize('name, changes', MORTAL, ids=str)
def test_a_run_that_dies_anywhere_ends_as_if_it_had_not(rng, tmp_path, monkeypatch, name, changes):
  run = crash.Run(_game(name, changes), crash.dataset(rng), monkeypatch)
  whole, events = run.play(tmp_path / 'whole'), run.events
  for n, told in enumerate((False, True)):
    where, stopped = tmp_path / str(n), threading.Event()
    monkeypatch.setattr(stop, '_asked', stopped)
    if told:
      run.kill = stopped.set
    after = int(rng.integers(events))
    with contextlib.suppress(crash.Death, stop.Stopped):
      run.play(where, after)
    stopped.clear()
    again = run.play(where)
    assert _same(again.params, whole.params), (told, after)
    assert again[1:] == whole[1:]
    assert tiny.logged(where) == tiny.logged(tmp_path / 'whole'), (told, after)


@pytest.mark.parametrize('after', [None, 0, 12])  # to the end, and told to stop before it
def test_whenever_a_save_is_waited_for_it_is_given_the_time(rng, tmp_path, monkeypatch, after):
  run, waits = crash.Run(_game('kd', {}), crash.dataset(rng), monkeypatch), []
  monkeypatch.setattr(stop, '_asked', threading.Event())
  run.kill = lambda: stop._asked.set()

  def noted(call, under_way):
    def wrapped(store):
      if under_way(store):
        waits.append((stop._holds, stop._saving.is_set()))
      return call(store)

    return wrapped

  store = checkpoint.Store
  monkeypatch.setattr(store, 'wait', noted(store.wait, lambda s: s._unsummed is not None))
  monkeypatch.setattr(store, 'close', noted(store.close, lambda s: True))
  with contextlib.suppress(stop.Stopped):
    run.play(tmp_path, after)
  assert waits and set(waits) == {(1, True)}


def test_the_registry_is_the_directory():
  assert {'finetune', 'kd', 'augpro'} <= set(methods.names())
  with pytest.raises(ValueError, match=r'none of .*augpro'):
    methods.get('augprro')


def test_kd_is_its_formula(rng):
  env, params = tiny.world()
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  env = env._replace(student=environments.quiet(env.student))
  method = methods.get('kd')(tiny.fields('kd', hard=0.3, soft=0.7, temperature=2.0), env)
  got, _ = jax.jit(method.players['student'].loss)(params, (), batch, jax.random.key(0))
  s = np.asarray(jax.jit(env.student)(params['student'], batch).logits, np.float64)
  t = np.asarray(jax.jit(env.teacher)(params['teacher'], batch).logits, np.float64)
  log = lambda z: z - np.log(np.exp(z).sum(1, keepdims=True))  # noqa: E731
  hard = -log(s)[np.arange(8), batch['label']].mean()
  p = np.exp(log(t / 2))
  soft = 4 * (p * (log(t / 2) - log(s / 2))).sum(1).mean()
  np.testing.assert_allclose(got, 0.3 * hard + 0.7 * soft, rtol=1e-4)
