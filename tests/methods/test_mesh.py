"""Every layout of the mesh computes the same: losses, gradients, parameters, memories.

On the devices that there are, four by default, for KD alone. All methods, on eight, take minutes:
pytest -m slow tests/methods/test_mesh.py
"""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from kdjax import checkpoint, methods, sharding, train
from tests import tiny

ROOT = pathlib.Path(__file__).parent.parent.parent
LAYOUTS = {
  4: [(1, 1, 1), (4, 1, 1), (2, 2, 1), (1, 2, 2)],
  8: [(1, 1, 1), (8, 1, 1), (2, 4, 1), (2, 2, 2)],
}
FEW = ('kd',)
each = pytest.mark.parametrize(
  'name', [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in methods.names()]
)


@functools.lru_cache(maxsize=5)
def _game(name, sizes, whole=''):
  env, params = tiny.world(**tiny.HEADS.get(name, {}))
  method, mesh = methods.get(name)(tiny.fields(name), env), sharding.make_mesh(*sizes, whole)
  # Of gradients that are 0 but for rounding, Adam's own epsilon would make whole steps.
  fields = tiny.train_fields(epsilon=1e-3)
  return method, train.start(method, params, tiny.dataset(), fields, 400, mesh), mesh


def _play(game, batches, state=None, first=0):
  """(state where it lies, metrics of each step), players in turn."""
  method, game, mesh = game
  players, log = list(method.players), []
  state = jax.tree.map(jax.numpy.copy, state or game.state)
  for n, batch in enumerate(batches, first):
    step = game.steps[players[n % len(players)]]
    state, metrics = step(state, game.frozen, sharding.put(batch, mesh), game.key)
    log.append(jax.device_get(metrics))
  return state, log


@each
def test_every_layout_agrees_and_goes_on_from_the_checkpoint_of_another(rng, tmp_path, name):
  batches = [tiny.batch(rng) for _ in range(4)]
  layouts = LAYOUTS[jax.device_count()]
  played = {sizes: _play(_game(name, sizes), batches[:3]) for sizes in layouts}
  one, log = played[layouts[0]]
  for sizes, (state, found) in played.items():
    tiny.near(found, log, sizes)
    tiny.near(state, one, sizes)
  ends = []
  for sizes, other in zip(layouts, layouts[1:] + layouts[:1], strict=True):
    store = checkpoint.Store(tmp_path / '-'.join(map(str, sizes)))
    store.save(3, played[sizes][0], {}, wait=True)
    like = _game(name, other)[1].state
    state, _ = store.restore(like)
    store.close()
    for a, b, c in zip(*map(jax.tree.leaves, (state, played[sizes][0], like)), strict=True):
      np.testing.assert_array_equal(a, b)
      assert a.sharding == c.sharding
    ends.append(_play(_game(name, other), batches[3:], state, 3))
  for end in ends[1:]:
    tiny.near(end, ends[0], 'gone on')


def test_parameters_optimizer_and_memory_lie_split_and_stay_so(rng):
  layout = LAYOUTS[jax.device_count()][-1]
  game = _game('codir', layout)
  state, _ = _play(game, [tiny.batch(rng)])
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(game[1].state), strict=True):
    assert a.sharding == b.sharding
  kernel = lambda tree: tree['layers']['0']['up']['kernel']  # noqa: E731
  frozen = kernel(game[1].frozen['teacher'])
  mu = jax.tree.leaves(state.opt, is_leaf=lambda x: hasattr(x, 'mu'))
  moments = next(x.mu['student'] for x in mu if hasattr(x, 'mu'))
  for leaf in (frozen, kernel(state.params['student']), kernel(moments)):
    part = leaf.addressable_shards[0].data
    assert part.size * 4 == leaf.size, leaf.sharding
  bank = state.memory['term']['student']['bank']
  assert bank.addressable_shards[0].data.shape[0] * layout[0] * layout[1] == bank.shape[0]


def test_a_role_that_is_named_whole_is_on_every_device_and_changes_nothing(rng):
  layouts, batches = LAYOUTS[jax.device_count()], [tiny.batch(rng) for _ in range(2)]
  state, log = _play(_game('kd', layouts[-2], 'student'), batches)
  assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state))
  assert not all(
    x.sharding.is_fully_replicated
    for x in jax.tree.leaves(_game('kd', layouts[-2], 'student')[1].frozen)
  )
  wanted, expected = _play(_game('kd', layouts[0]), batches)
  tiny.near((state, log), (wanted, expected), 'whole')


@pytest.mark.slow
def test_every_method_agrees_on_eight_devices():
  flags = os.environ['XLA_FLAGS'].replace('device_count=4', 'device_count=8')
  command = [sys.executable, '-m', 'pytest', '-x', __file__, '-m', '', '-k', 'not eight']
  done = subprocess.run(
    command, env=os.environ | dict(XLA_FLAGS=flags), cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout[-3000:]
