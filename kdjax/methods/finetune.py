"""Plain fine-tuning on gold labels: the floor for every method, and how teachers are made."""

from kdjax.methods import base


def make(c, env) -> base.Method:
  """One player, the student; the teacher is not asked."""
  del c

  def loss(params, memory, batch, key):
    logits_BC = env.student(params['student'], batch, key).logits
    hard = env.task.loss(logits_BC, batch['label']).mean()
    return hard, (memory, dict(hard=hard))

  return base.Method({'student': base.Player(('student',), loss)})
