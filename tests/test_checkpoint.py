"""Checkpoints: what does not fit is refused, what is stale is dropped."""

import logging
import pathlib

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
  store.wait()
  assert store.step() == 2 and not (tmp_path / '1').exists()
  store.drop_after(2)
  assert store.step() == 2
  store.drop_after(1)
  assert store.step() is None
  store.save(2, _state(rng), {})  # the step is reached again
  assert store.step() == 2
  store.close()


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(p for p in folder.rglob('*') if p.is_file() and p.stat().st_size)


@pytest.mark.parametrize('harm', ['truncate', 'flip', 'remove', 'add'])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(rng, tmp_path, caplog, harm):
  states = {step: _state(rng) for step in (4, 8)}
  store = checkpoint.Store(tmp_path, keep=2)
  for step, state in states.items():
    store.save(step, state, dict(step=step))
  store.close()
  victim = _files(tmp_path / '8')[rng.integers(len(_files(tmp_path / '8')))]
  data = bytearray(victim.read_bytes())
  if harm == 'truncate':
    victim.write_bytes(data[: rng.integers(len(data))])
  elif harm == 'flip':
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    victim.write_bytes(data)
  elif harm == 'remove':
    victim.unlink()
  else:
    victim.with_name('stranger').write_bytes(b'x')
  with caplog.at_level(logging.WARNING, 'kdjax'):
    store = checkpoint.Store(tmp_path, keep=2)
  assert str(tmp_path / '8') in caplog.text and 'damaged' in caplog.text
  back, meta = store.restore(jax.tree.map(jnp.zeros_like, states[4]))
  assert meta == dict(step=4)
  assert jax.tree.all(jax.tree.map(np.array_equal, states[4], back))
  assert (tmp_path / '8.damaged').is_dir()  # nothing is lost
  store.save(8, states[8], dict(step=8))  # the step is reached again
  store.close()
  assert checkpoint.Store(tmp_path, keep=2).step() == 8


def test_all_checkpoints_damaged_is_a_fresh_start_with_a_warning_each(rng, tmp_path):
  store = checkpoint.Store(tmp_path, keep=2)
  for step in (1, 2):
    store.save(step, _state(rng), {})
  store.close()
  for step in ('1', '2'):
    _files(tmp_path / step)[0].write_bytes(b'')
  assert checkpoint.Store(tmp_path).step() is None


def test_the_same_step_is_saved_again_in_place_of_the_first(rng, tmp_path):
  store, (old, new) = checkpoint.Store(tmp_path), (_state(rng), _state(rng))
  store.save(5, old, dict(scored=0))
  store.save(5, new, dict(scored=5))
  store.close()
  back, meta = checkpoint.Store(tmp_path).restore(old)
  assert meta == dict(scored=5) and np.array_equal(back['a']['b'], new['a']['b'])


def test_a_failing_disk_is_tried_again_with_the_state_in_memory(rng, tmp_path, monkeypatch, caplog):
  waits = []
  monkeypatch.setattr(checkpoint.time, 'sleep', waits.append)
  store, state = checkpoint.Store(tmp_path, keep=2), _state(rng)
  store.save(1, state, {})
  store.wait()
  save, left = checkpoint.Store._save, [2]

  def full(self, *args):
    if left[0]:
      left[0] -= 1
      raise OSError(28, 'No space left on device')
    save(self, *args)

  monkeypatch.setattr(checkpoint.Store, '_save', full)
  store.save(2, state, dict(a=1))
  assert waits == [checkpoint.WAIT] * 2 and 'No space left on device' in caplog.text
  store.close()
  back, meta = checkpoint.Store(tmp_path, keep=2).restore(state)
  assert meta == dict(a=1) and np.array_equal(back['a']['b'], state['a']['b'])

  left[0] = 100
  store = checkpoint.Store(tmp_path, keep=2)
  with pytest.raises(OSError, match='Make room there'):
    store.save(3, state, {})
  assert checkpoint.Store(tmp_path, keep=2).step() == 2  # what was saved is still whole


def test_what_is_saved_is_what_was_there_when_save_was_called(rng, tmp_path):
  step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
  state = dict(a=jnp.asarray(rng.normal(size=(1000, 1000)), jnp.float32))
  want, pending = np.array(state['a']), [dict(loss=1.0)]
  store = checkpoint.Store(tmp_path)
  store.save(1, state, dict(pending=pending))
  pending.append(dict(loss=jnp.float32(2)))  # training goes on while it is written
  for _ in range(5):
    state = step(state)
  back, meta = store.restore(state)
  assert meta == dict(pending=[dict(loss=1.0)]) and np.array_equal(back['a'], want)
