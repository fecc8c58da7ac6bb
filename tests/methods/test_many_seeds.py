"""Seeds in one program are their single games: losses, parameters, memories.

The batches are the same, the seeds are not. KD on one device and CoDIR (banks) on four
by default; all methods: pytest -m slow tests/methods/test_many_seeds.py
"""

import jax
import numpy as np
import pytest

from kdjax import methods, seeds, sharding, train
from tests import tiny


def _each(few):
  marks = {name: () if name == few else pytest.mark.slow for name in methods.names()}
  return pytest.mark.parametrize('name', [pytest.param(n, marks=m) for n, m in marks.items()])


def _starts(name, n):
  """(method, parameters of each seed): one teacher, one generator, students of their own."""
  env, params = tiny.world(**tiny.HEADS.get(name, {}))
  own = lambda i: jax.tree.map(lambda x: x * (1 + i / 10), params['student'])  # noqa: E731
  return methods.get(name)(tiny.fields(name), env), [
    params | dict(student=own(i)) for i in range(n)
  ]


def _start(method, params, mesh, seed, **changes):
  # Of gradients that are 0 but for rounding, Adam's own epsilon would make whole steps.
  fields = tiny.train_fields(epsilon=1e-3, seed=seed, **changes)
  return train.start(method, params, tiny.dataset(), fields, 400, mesh)


def _play(game, steps, batches, mesh, many=False):
  """(state, metrics of each step), players in turn."""
  state, players, log = game.state, list(steps), []
  for n, batch in enumerate(batches):
    step = steps[players[n % len(players)]]
    state, metrics = step(state, game.frozen, sharding.put(batch, mesh, many), game.key)
    log.append(jax.device_get(metrics))
  return state, log


def _same_as_alone(rng, name, devices, n=3, steps=4, lost=(), **changes):
  """Plays n seeds at once and each alone; the state of all. lost: seeds that begin as nan."""
  method, params = _starts(name, n)
  for i in lost:
    params[i]['student'] = jax.tree.map(lambda x: x * np.nan, params[i]['student'])
  own = [[tiny.batch(rng) for _ in range(steps)] for _ in range(n)]
  mesh = sharding.for_seeds(sharding.make_mesh(devices), n)
  game = _start(method, params, mesh, 3, **changes)
  state, log = _play(game, game.steps, list(seeds.batches(own)), mesh, many=True)
  one = sharding.make_mesh(1)
  games = [_start(method, start, one, 3 + i, **changes) for i, start in enumerate(params)]
  for i, game in enumerate(games):
    wanted = _play(game, games[0].steps, own[i], one)  # compiled once
    tiny.near(seeds.part((state, log), n)[i], wanted, f'seed {i}')
  return state


@_each('kd')
def test_three_seeds_at_once_are_three_games(rng, name):
  state = _same_as_alone(rng, name, 1)
  kernel = jax.tree.leaves(state.params['student'])[0]
  assert kernel.shape[0] == 3 and not np.allclose(kernel[0], kernel[1])


@_each('codir')
def test_groups_of_devices_take_a_share_of_the_seeds_each(rng, name):
  state = _same_as_alone(rng, name, 4, n=2)
  for leaf in jax.tree.leaves((state.params, state.opt, state.memory)):
    assert leaf.sharding.shard_shape(leaf.shape)[0] == 1, leaf.sharding


@pytest.mark.slow
def test_a_seed_whose_steps_are_skipped_and_accumulated_parts_leave_the_others_as_alone(rng):
  state = _same_as_alone(rng, 'kd', 2, n=2, lost=(1,), nonfinite='skip', accumulate=2)
  leaf = np.asarray(jax.tree.leaves(state.params['student'])[0])
  assert np.isfinite(leaf[0]).all() and np.isnan(leaf[1]).all()
  assert list(state.step) == [4, 4]
