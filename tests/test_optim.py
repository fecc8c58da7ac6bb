"""The schedule and the optimizer by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, optim, sharding, train
from tests import tiny


def test_the_rate_rises_then_falls_to_zero():
  rate = optim.schedule(1.0, 100, 0.1)
  values = [float(rate(s)) for s in range(101)]
  assert np.argmax(values) == 10 and values[10] == 1.0 and values[0] > 0
  assert values[100] == 0
  np.testing.assert_allclose(values[55], 0.5)
  assert (np.diff(values[:11]) > 0).all() and (np.diff(values[10:]) < 0).all()


def test_without_warm_up_the_first_step_is_the_whole_rate():
  assert float(optim.schedule(0.3, 10, 0.0)(0)) == np.float32(0.3)


def test_vectors_do_not_decay_and_matrices_do():
  params = dict(kernel=jnp.ones((2, 2)), bias=jnp.ones(2), scale=jnp.ones(2))
  c = tiny.train_fields(decay=0.5, rate=0.1)
  chain = optim.make(c, 10, 10)
  updates, _ = chain.update(jax.tree.map(jnp.zeros_like, params), chain.init(params), params)
  np.testing.assert_allclose(updates['kernel'], -0.05, rtol=1e-6)
  assert (updates['bias'] == 0).all() and (updates['scale'] == 0).all()


def test_the_gradient_is_clipped_by_its_global_norm():
  # Adam forgets the scale of a first gradient: clip alone is what is seen here.
  c = tiny.train_fields(clip=1.0, decay=0.0, rate=1.0, epsilon=1e3, beta1=0.0, beta2=0.0)
  params = dict(a=jnp.zeros(2))
  chain = optim.make(c, 10, 10)
  updates, _ = chain.update(dict(a=jnp.array([30.0, 40.0])), chain.init(params), params)
  # Clipped to (0.6, 0.8); with epsilon far larger than |g|, Adam divides by epsilon.
  np.testing.assert_allclose(-updates['a'] * 1e3, [0.6, 0.8], rtol=2e-3)


def test_the_released_schedule_of_mate_kd():
  # huawei-noah/KD-NLP: 2,138 turns of warm-up from 0, then down to 0 at the end of all batches.
  T = 368_160
  rate = optim.schedule(1.0, T, 2138, from_zero=True)
  want = {0: 0, 1069: 0.5, 2138: 1, 200_000: (T - 200_000) / (T - 2138), T: 0}
  np.testing.assert_allclose([rate(k) for k in want], list(want.values()), rtol=1e-5)
  optaxs = optax.join_schedules(
    [optax.linear_schedule(0.0, 1.0, 2138), optax.linear_schedule(1.0, 0.0, T - 2138)], [2138]
  )
  for k in (0, 1, 2137, 2138, 2139, 300_000, T - 1, T, T + 5):
    np.testing.assert_allclose(rate(k), optaxs(k), rtol=1e-5, atol=1e-7)
  writer = optim.schedule(1.0, T, 0.0)
  np.testing.assert_allclose([writer(j) for j in (0, 33_470)], [1, (T - 33_470) / T], rtol=1e-5)


def _rates(game, name):
  """A player's schedule, as its optimizer has it."""
  return game.state.opt[name][-1].schedule


# Training rows, turns of generator and student in 30 epochs of batches of 32, and the share of the
# student's rate after its last: of the fewest rows it is still rising.
RELEASED = [
  (392_702, 33_470, 334_690, 0.0914),
  (67_349, 5_750, 57_400, 0.0942),
  (8_551, 740, 7_300, 0.125),
  (3_668, 320, 3_130, 0.244),
  (2_490, 220, 2_120, 0.992),
]


@pytest.mark.parametrize('rows, writes, learns, left', RELEASED)
def test_the_released_rates_end_where_the_turns_of_mate_kd_do(rows, writes, learns, left):
  # huawei-noah/KD-NLP counts a player's own turns on a schedule as long as all batches.
  env, params = tiny.world()
  T, c = 30 * -(-rows // 32), tiny.train_fields(from_zero=True, horizon='all', warmup=2138)
  method = methods.get('mate_kd')(tiny.fields('mate_kd', gen_rate=5e-7), env)
  assert [method.turn(k, T) for k in range(T)].count('generator') == writes == T - learns
  game = train.start(method, params, tiny.dataset(), c, T, sharding.make_mesh(1))
  student, generator = (_rates(game, name) for name in ('student', 'generator'))
  assert student(0) == 0 and student(2138) == np.float32(c.rate)
  np.testing.assert_allclose(student(learns) / c.rate, left, atol=0.0005 if left > 0.1 else 5e-5)
  assert generator(0) == np.float32(5e-7)
  np.testing.assert_allclose(generator(writes) / 5e-7, learns / T, rtol=1e-4)


def test_each_player_has_its_own_rate_over_its_own_turns_and_its_own_decay(rng):
  # Nothing is hidden: of the generator, only decay could move a kernel.
  env, params = tiny.world()
  c = tiny.train_fields(warmup=0.1, decay=0.1, rate=3e-3)
  method = methods.get('mate_kd')(tiny.fields('mate_kd', rho=1e-9, gen_rate=1e-2), env)
  mesh = sharding.make_mesh(1)
  game = train.start(method, params, tiny.dataset(), c, 220, mesh)
  student, generator = (_rates(game, name) for name in ('student', 'generator'))
  rates = [generator(k) for k in (0, 10, 19, 20)]
  np.testing.assert_allclose(rates, [1e-2, 5e-3, 5e-4, 0], rtol=1e-5)
  rates = [student(k) for k in (0, 20, 110, 200)]
  np.testing.assert_allclose(rates, [3e-3 / 21, 3e-3, 1.5e-3, 0], rtol=1e-5)
  batch = sharding.put(tiny.batch(rng), mesh)
  state, _ = game.steps['generator'](game.state, game.frozen, batch, game.key)
  jax.tree.map(np.testing.assert_array_equal, state.params['generator'], params['generator'])


def test_a_horizon_of_all_steps_ends_later_than_ones_own_turns():
  updates = []
  for horizon in ('own', 'all'):
    c = tiny.train_fields(rate=1.0, decay=0.0, clip=0.0, warmup=0.0, horizon=horizon)
    chain, params = optim.make(c, 10, 110), dict(a=jnp.zeros(1))
    state = chain.init(params)
    for _ in range(6):
      update, state = chain.update(dict(a=jnp.ones(1)), state, params)
    updates.append(-float(update['a'][0]))
  np.testing.assert_allclose(updates, [0.5, 1 - 5 / 110], rtol=1e-5)


def test_the_clip_is_torchs():
  clipped, _ = optim.clip(5.0).update(dict(a=jnp.array([3.0, 4, 0, 12])), (), None)
  np.testing.assert_allclose(clipped['a'], [1.153846, 1.538461, 0, 4.615384], rtol=1e-6)


def test_the_two_adams_differ_on_a_first_tiny_gradient():
  # By the formulas of torch's Adam and of transformers 3's AdamW: g = 1e-7, epsilon 1e-8.
  for kind, want in (('torch', 0.909091), ('huggingface', 0.240253)):
    c = tiny.train_fields(rate=1.0, decay=0.0, clip=0.0, warmup=0.0, adam=kind)
    chain, params = optim.make(c, 10, 10), dict(a=jnp.zeros(1))
    updates, _ = chain.update(dict(a=jnp.full(1, 1e-7)), chain.init(params), params)
    np.testing.assert_allclose(-updates['a'], want, rtol=1e-4)


@pytest.mark.parametrize('size', [1.0, 1e-8])
@pytest.mark.parametrize('early', [False, True])
@pytest.mark.parametrize('betas', [(0.9, 0.999), (0.0, 0.0)])
def test_adam_is_the_papers_in_float64(rng, size, early, betas):
  (b1, b2), eps = betas, 1e-8
  ours = optim.adam(b1, b2, eps, early)
  state = ours.init(dict(a=jnp.zeros(5)))
  m = v = np.zeros(5)
  for t in range(1, 30):
    g = (size * rng.normal(size=5)).astype(np.float32)
    moves, state = ours.update(dict(a=jnp.asarray(g)), state)
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * np.square(g, dtype=np.float64)
    root = np.sqrt(1 - b2**t)
    below = (np.sqrt(v) + eps) / root if early else np.sqrt(v) / root + eps
    np.testing.assert_allclose(moves['a'], m / (1 - b1**t) / below, rtol=3e-6, atol=1e-7)


def test_a_gradient_within_the_norm_is_left_bit_for_bit_and_a_larger_one_has_that_norm(rng):
  grads = dict(a=jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), b=jnp.ones(2))
  norm = float(optax.tree.norm(grads))
  within, _ = optim.clip(2 * norm).update(grads, ())
  np.testing.assert_array_equal(within['a'], grads['a'])
  clipped, _ = optim.clip(norm / 3).update(grads, ())
  want, _ = optax.clip_by_global_norm(norm / 3).update(grads, optax.EmptyState())
  np.testing.assert_allclose(clipped['a'], want['a'], rtol=1e-6)
  nothing, _ = optim.clip(1.0).update(dict(a=jnp.zeros(2)), ())
  assert (nothing['a'] == 0).all()


def test_a_program_is_the_same_for_all_rates_and_numbers_of_steps():
  params, texts, moves = dict(a=jnp.ones((2, 3))), [], []
  for rate, turns in ((1e-3, 10), (0.5, 1000)):
    chain = optim.make(tiny.train_fields(rate=rate), turns, 2 * turns)
    update = jax.jit(chain.update)
    state = chain.init(params)
    texts.append(update.lower(params, state, params).as_text())
    moves.append(float(update(params, state, params)[0]['a'][0, 0]))
  assert texts[0] == texts[1] and moves[0] != moves[1]


def test_a_wrong_switch_is_refused_by_name():
  for field in ('adam', 'horizon'):
    with pytest.raises(ValueError, match=f'config.train.{field}='):
      optim.make(tiny.train_fields(**{field: 'x'}), 10, 10)
