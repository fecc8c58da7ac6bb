"""Numbers that are none: the run stops, or the step is passed over, and the rows are named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import guard, optim, sharding, train
from kdjax.methods import base
from tests import tiny


def _player():
  """Loss w x: not finite where x is not."""

  def loss(params, memory, batch, key):
    del key
    value = (params['student'] * batch['x']).sum()
    return value, (memory + 1, dict(hard=value, count=jnp.float32(batch['x'].size)))

  return base.Player(('student',), loss)


def _step(skip: bool):
  optimizer = optim.make(tiny.train_fields(), 4, 4)
  params = dict(student=jnp.ones(2, jnp.float32))
  state = train.TrainState(
    jnp.int32(0), params, {'student': optimizer.init(params)}, jnp.zeros((), jnp.float32)
  )
  mesh = sharding.make_mesh(1)
  return state, train.make_step('student', _player(), optimizer, mesh, skip=skip)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_skipped_step_changes_nothing_but_its_number(bad):
  state, step = _step(skip=True)
  before = jax.device_get(state)
  key = jax.random.key(0)
  state, metrics = step(state, {}, dict(x=np.array([bad, 1.0], np.float32)), key)
  after = jax.device_get(state)
  assert metrics['student/skipped'] == 1 and after.step == 1
  assert jax.tree.all(jax.tree.map(np.array_equal, before._replace(step=1), after))
  state, metrics = step(state, {}, dict(x=np.array([2.0, 1.0], np.float32)), key)
  assert metrics['student/skipped'] == 0 and state.memory == 1
  assert not np.array_equal(state.params['student'], before.params['student'])


def test_stopping_names_step_player_term_and_rows(tmp_path):
  watch = guard.Guard('kd', tmp_path, 'stop')
  for step in (4, 5, 6):
    watch.watch(step, dict(index=np.array([step * 10, step * 10 + 1])))
  rows = [{'student/loss': 1.0, 'student/soft': 0.5} for _ in range(3)]
  rows[1] = {'student/loss': jnp.nan, 'student/soft': 0.5}
  with pytest.raises(
    FloatingPointError, match=r"kd: step 5, student's turn: loss .*nonfinite='skip"
  ):
    watch.fetch(rows, 6)
  (record,) = map(json.loads, (tmp_path / guard.FILE).read_text().splitlines())
  assert record['step'] == 5 and record['player'] == 'student'
  assert record['examples'] == [50, 51] and record['metrics']['student/loss'] == 'nan'


def test_skipping_says_it_and_keeps_it_out_of_the_means(tmp_path, caplog):
  watch = guard.Guard('kd', tmp_path, 'skip')
  for step in (1, 2):
    watch.watch(step, dict(index=np.array([step])))
  rows = watch.fetch([{'student/loss': 3.0}, {'student/loss': jnp.inf}], 2)
  assert 'step 2' in caplog.text and 'skipped' in caplog.text
  assert train._means(rows) == {'student/loss': 3.0}
