"""Annealing-KD, Jafari et al. (2021), arXiv:2104.07163: the teacher's logits, growing, then labels.

Phase 1: min MSE(S(x), a T(x)), a rising in steps to 1; phase 2: min CE(S(x), y). As in the released
code, phase 2 has an optimizer and a schedule of its own. Ours: the phases are parts of the run, and
phase 2 goes on from the end of phase 1, not from its best checkpoint.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.methods import base


def make(c, env) -> base.Method:
  """Two players that own the student one after the other; fields in configs/annealing_kd.py."""

  def regress(params, memory, batch, key):
    student_BC = env.student(params['student'], batch, key).logits
    teacher_BC = env.teacher.answer(params['teacher'], batch).logits
    a = factor(c, memory)
    soft = mean_square(student_BC, a * teacher_BC).mean()
    return soft, (ticked(memory, batch), dict(soft=soft, factor=a))

  return phased(c, env, {'regress': base.Player(('student',), regress)}, lambda step: 'regress')


def phased(c, env, first: dict[str, base.Player], turn: Callable[[int], str]) -> base.Method:
  """Phase 1 by these players, who count 'regress' turns; phase 2: the student on gold labels.

  c.phases: two lengths in epochs; a run of any length is cut in their proportion.
  """
  base.positive(c, 't_max')
  if len(c.phases) != 2 or min(c.phases) < 0 or not sum(c.phases):
    raise ValueError(f'config.method.phases={c.phases}: two lengths in epochs, like (14, 4)')
  if 0 < c.phases[0] < c.t_max:
    raise ValueError(
      f'config.method.t_max={c.t_max} is more than the first of config.method.phases={c.phases}: '
      f'the factor grows once an epoch of it, and would end at {c.phases[0] / c.t_max:.2f}, not 1'
    )

  def classify(params, memory, batch, key):
    student_BC = env.student(params['student'], batch, key).logits
    hard = env.task.loss(student_BC, batch['label']).mean()
    return hard, (memory, dict(hard=hard))

  def border(steps):
    return round(steps * c.phases[0] / sum(c.phases))

  def init(key, params, data):
    del key, params
    turns = sum(turn(step) == 'regress' for step in range(border(data.steps)))
    return {}, started(turns * data.batch_size)

  return base.Method(
    first | {'student': base.Player(('student',), classify)},
    init,
    lambda step, steps: turn(step) if step < border(steps) else 'student',
    'logits',
  )


def factor(c, memory) -> jax.Array:
  """f32[]: a = T / t_max with T = 1 + floor(epoch / floor(epochs / t_max)), as released.

  The epoch is that of phase 1. Where t_max does not divide the epochs, a passes 1 unless c.clamp.
  """
  epochs = c.phases[0]
  epoch = jnp.floor(epochs * gone(memory))
  a = (1 + jnp.floor(epoch / max(epochs // c.t_max, 1))) / c.t_max
  return jnp.minimum(a, 1.0) if c.clamp else a


def started(rows: int):
  """A memory that counts rows, of so many in all: turns may come in accumulated parts."""
  return {name: jnp.full((), n, jnp.int32) for name, n in dict(clock=0, end=rows).items()}


def gone(memory) -> jax.Array:
  """f32[] in [0, 1): the share of the rows that have been seen; the last one stays the last."""
  return jnp.minimum(memory['clock'], memory['end'] - 1) / jnp.maximum(memory['end'], 1)


def ticked(memory, batch):
  """The memory after these rows."""
  return memory | dict(clock=memory['clock'] + len(batch['tokens']))


def mean_square(student_BC: jax.Array, teacher_BC: jax.Array) -> jax.Array:
  """f32[B]: squared error of the logits, a mean over classes."""
  return losses.squared_gap(student_BC, teacher_BC) / student_BC.shape[1]
