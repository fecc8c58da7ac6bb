"""Hiding tokens: rates, slots, and that what is taken goes back where it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import sharding
from kdjax.methods import masking
from tests import tiny

hide = jax.jit(masking.hide, static_argnums=(2, 3))


def _maskable(rng, rows, length):
  """As in batches: specials at both ends, padding after the text, a row of nothing ordinary."""
  ends = rng.integers(2, length + 1, (rows, 1))
  ends[0] = 2
  at = np.arange(length)[None]
  return (at > 0) & (at < ends - 1)


def test_capacity_is_its_formula():
  assert masking.capacity(128, 0.3, 4.0) == int(np.ceil(38.4 + 4 * np.sqrt(0.3 * 0.7 * 128)))
  assert masking.capacity(128, 0.3, 0.0) == 39
  assert masking.capacity(8, 0.9, 9.0) == 8
  assert masking.capacity(8, 1.0, 3.0) == 8
  assert masking.capacity(8, 0.0, 3.0) == 0


def test_each_ordinary_place_is_hidden_at_the_rate_and_no_other_is_ever(rng):
  rows, length, rho = 2000, 128, 0.3
  maskable = _maskable(rng, rows, length)
  room = masking.capacity(length, rho, 5.0)
  key = jax.random.key(int(rng.integers(2**31)))
  positions, hidden, overflow = jax.device_get(hide(key, maskable, rho, room))
  assert not hidden[~maskable].any()
  n = maskable.sum()
  assert abs(hidden.sum() - rho * n) < 6 * np.sqrt(rho * (1 - rho) * n) + overflow
  # Five sigmas of room: about three rows in ten million lose a place.
  assert overflow <= 2 and overflow.dtype == np.int32
  for at, row in zip(positions, hidden, strict=True):
    np.testing.assert_array_equal(at[at < length], np.flatnonzero(row))
    assert (at[row.sum() :] == length).all()


def test_what_does_not_fit_is_counted_and_chosen_without_regard_to_its_place(rng):
  rows, length, rho, room = 4000, 16, 0.5, 3
  maskable = np.ones((rows, length), bool)
  maskable[:, 5] = False
  key = jax.random.key(int(rng.integers(2**31)))
  positions, hidden, overflow = jax.device_get(hide(key, maskable, rho, room))
  wide = jax.device_get(hide(key, maskable, rho, length))
  assert wide[2] == 0 and overflow == wide[1].sum() - hidden.sum() > 0
  assert (hidden <= wide[1]).all()  # kept among those drawn
  np.testing.assert_array_equal(hidden.sum(1), np.minimum(wide[1].sum(1), room))
  assert (positions < length).sum() == hidden.sum()
  share = hidden.mean(0)[maskable[0]]
  p = share.mean()
  assert np.abs(share - p).max() < 6 * np.sqrt(p * (1 - p) / rows)


def test_nothing_ordinary_hides_nothing(rng):
  positions, hidden, overflow = hide(jax.random.key(0), np.zeros((3, 6), bool), 0.9, 4)
  assert not hidden.any() and (positions == 6).all() and overflow == 0
  positions, hidden, overflow = hide(jax.random.key(0), np.ones((3, 6), bool), 0.0, 0)
  assert positions.shape == (3, 0) and not hidden.any() and overflow == 0


def test_put_of_take_changes_nothing_and_take_of_put_gives_the_values(rng):
  x = rng.normal(size=(5, 9, 3)).astype(np.float32)
  positions, hidden, _ = hide(
    jax.random.key(int(rng.integers(2**31))), np.ones((5, 9), bool), 0.4, 6
  )
  hidden, used = np.asarray(hidden), np.asarray(positions) < 9
  got = masking.take(x, positions)
  np.testing.assert_array_equal(masking.put(x, positions, got), x)
  np.testing.assert_array_equal(np.asarray(got)[used], x[hidden])
  assert not np.asarray(got)[~used].any()
  values = rng.normal(size=(5, 6, 3)).astype(np.float32)
  new = np.asarray(masking.put(x, positions, values))
  np.testing.assert_array_equal(new[~hidden], x[~hidden])
  np.testing.assert_array_equal(np.asarray(masking.take(new, positions))[used], values[used])
  ids = rng.integers(5, 60, (5, 9)).astype(np.int32)
  back = masking.put(ids, positions, masking.take(ids, positions))
  np.testing.assert_array_equal(back, ids)
  assert back.dtype == np.int32


def test_gradients_go_to_what_was_taken_and_to_what_was_put(rng):
  x = rng.normal(size=(4, 7, 2)).astype(np.float32)
  positions, hidden, _ = hide(jax.random.key(1), np.ones((4, 7), bool), 0.5, 5)
  used = np.asarray(positions) < 7
  weight = rng.normal(size=(4, 5, 2)).astype(np.float32)
  got = jax.grad(lambda x: (masking.take(x, positions) * weight).sum())(x)
  want = np.zeros_like(x)
  want[np.asarray(hidden)] = weight[used]
  np.testing.assert_array_equal(got, want)

  values, out = weight, rng.normal(size=x.shape).astype(np.float32)
  to_x, to_values = jax.grad(
    lambda x, v: (masking.put(x, positions, v) * out).sum(), argnums=(0, 1)
  )(x, values)
  np.testing.assert_array_equal(to_x, np.where(np.asarray(hidden)[..., None], 0, out))
  np.testing.assert_array_equal(np.asarray(to_values)[used], out[np.asarray(hidden)])
  assert not np.asarray(to_values)[~used].any()


@pytest.mark.parametrize('devices', [1, 4])
def test_a_split_batch_stays_split_and_draws_the_same(rng, devices):
  mesh = sharding.make_mesh(devices)
  same, rows = sharding.replicated(mesh), sharding.rows(mesh)

  def all_of_it(key, maskable, x):
    positions, hidden, _ = masking.hide(key, maskable, 0.4, 6)
    taken = masking.take(x, positions)
    return positions, hidden, masking.put(x, positions, 2 * taken)

  run = jax.jit(all_of_it, in_shardings=(same, rows, rows), out_shardings=rows)
  x = np.random.default_rng(0).normal(size=(8, tiny.LENGTH, 3)).astype(np.float32)
  arguments = jax.random.key(3), np.ones((8, tiny.LENGTH), bool), x
  text = run.lower(*arguments).compile().as_text()
  assert not any(word in text for word in ('all-gather', 'all-to-all', 'all-reduce'))
  for got, want in zip(run(*arguments), jax.jit(all_of_it)(*arguments), strict=True):
    np.testing.assert_array_equal(got, jnp.asarray(want))
