"""Continuation-KD, Jafari et al. (2022), arXiv:2212.05998: from an easy objective to the labels.

L = (1 - w) max(0, MSE(S(x), a T(x)) - margin) + w CE(S(x), y), w rising from 0 to 1 and a to 1 over
the run. That the objective starts smooth and grows harder is the paper's; this formula is recalled,
not checked against its text, and the margin's value is ours.
"""

import jax.numpy as jnp

from kdjax.methods import annealing_kd, base


def make(c, env) -> base.Method:
  """One player; fields in configs/continuation_kd.py."""
  base.positive(c, 't_max')

  def init(key, params, data):
    del key, params
    return {}, annealing_kd.started(data.steps * data.batch_size)

  def loss(params, memory, batch, key):
    student_BC = env.student(params['student'], batch, key).logits
    teacher_BC = env.teacher.answer(params['teacher'], batch).logits
    w = annealing_kd.gone(memory)
    a = (1 + jnp.floor(w * c.t_max)) / c.t_max
    gap_B = annealing_kd.mean_square(student_BC, a * teacher_BC)
    soft = jnp.maximum(gap_B - c.margin, 0.0).mean()
    hard = env.task.loss(student_BC, batch['label']).mean()
    metrics = dict(soft=soft, hard=hard, factor=a, inside=(gap_B < c.margin).mean())
    return (1 - w) * soft + w * hard, (annealing_kd.ticked(memory, batch), metrics)

  return base.Method({'student': base.Player(('student',), loss)}, init, asks='logits')
