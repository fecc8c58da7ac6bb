"""Noise is drawn anew: each step, each accumulated part, each seed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import methods, sharding, train
from kdjax.methods import base
from tests import tiny


@pytest.mark.parametrize('accumulate', [1, 2])
def test_each_step_and_part_has_a_draw_of_its_own(rng, accumulate):
  def loss(params, memory, batch, key):  # remembers the draw of each part
    memory = jnp.append(memory[1:], jax.random.uniform(key))
    return jnp.square(params['student']).sum(), (memory, dict(noise=memory[-1]))

  player = base.Player(('student',), loss)
  method = base.Method({'student': player}, lambda *_: ({}, jnp.zeros(accumulate)))
  mesh, fields = sharding.make_mesh(1), tiny.train_fields(accumulate=accumulate)
  game = train.start(method, dict(student=jnp.ones(3)), tiny.dataset(), fields, 4, mesh)
  batch, key = sharding.put(tiny.batch(rng), mesh), jax.random.key(int(rng.integers(1 << 30)))
  found, want = [], []
  for step in (0, 1):
    state = jax.tree.map(jnp.copy, game.state)._replace(step=jnp.int32(step))
    state, metrics = game.steps['student'](state, game.frozen, batch, key)
    found.append(np.asarray(state.memory))
    keys = jax.random.split(jax.random.fold_in(key, step), accumulate)
    want.append([jax.random.uniform(k) for k in keys])
    np.testing.assert_allclose(metrics['student/noise'], np.mean(want[-1]), rtol=1e-6)
  np.testing.assert_array_equal(found, want)
  assert len(np.unique(found)) == 2 * accumulate


def test_each_seed_has_noise_and_rail_kds_layers_of_its_own(rng):
  env, params = tiny.world()
  method, mesh = methods.get('rail_kd')(tiny.fields('rail_kd'), env), sharding.make_mesh(1)
  seed, games = int(rng.integers(1 << 30)), []
  for own in (seed, seed + 1):
    fields = tiny.train_fields(seed=own)
    games.append(train.start(method, params, tiny.dataset(), fields, 10, mesh))
  one, other = (int(game.state.memory['term']['seed']) for game in games)
  assert one != other
  assert (jax.random.key_data(games[0].key) != jax.random.key_data(games[1].key)).any()
