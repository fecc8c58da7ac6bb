"""Checkpoints: what does not fit is refused, what is stale is dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import checkpoint


def _state(rng, width=3, dtype=jnp.float32):
  return dict(a=dict(b=jnp.asarray(rng.normal(size=(2, width)), dtype)), n=jnp.int32(7))


def test_what_is_saved_comes_back_bit_for_bit(rng, tmp_path):
  store, state = checkpoint.Store(tmp_path), _state(rng)
  store.save(3, state, dict(best=0.5, metrics=dict(f1=0.25)))
  store.close()
  store = checkpoint.Store(tmp_path)
  assert store.step() == 3
  back, meta = store.restore(jax.tree.map(jnp.zeros_like, state))
  assert jax.tree.all(jax.tree.map(np.array_equal, state, back))
  assert meta == dict(best=0.5, metrics=dict(f1=0.25))
  store.close()


@pytest.mark.parametrize('other', [dict(width=4), dict(dtype=jnp.bfloat16)])
def test_another_shape_or_dtype_is_refused_and_not_cast(rng, tmp_path, other):
  store = checkpoint.Store(tmp_path)
  store.save(1, _state(rng), {})
  with pytest.raises(ValueError, match=r'1 arrays differ, first a/b: stored \(\(2, 3\), .float32'):
    store.restore(_state(rng, **other))
  store.close()


def test_only_the_newest_is_kept_and_newer_ones_than_the_state_are_dropped(rng, tmp_path):
  store = checkpoint.Store(tmp_path)
  for step in (1, 2):
    store.save(step, _state(rng), {})
  assert store.step() == 2 and not (tmp_path / '1').exists()
  store.drop_after(2)
  assert store.step() == 2
  store.drop_after(1)
  assert store.step() is None
  store.save(2, _state(rng), {})  # the step is reached again
  assert store.step() == 2
  store.close()
