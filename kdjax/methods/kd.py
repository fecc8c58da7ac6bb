"""Knowledge distillation, Hinton et al. (2015), arXiv:1503.02531: learn from soft labels."""

from kdjax.methods import base


def make(c, env) -> base.Method:
  """c.hard, c.soft: weights of the gold label and of the teacher; c.temperature."""
  base.positive(c, 'temperature')

  def loss(params, memory, batch, key):
    student_BC = env.student(params['student'], batch, key).logits
    teacher_BC = env.teacher.answer(params['teacher'], batch).logits
    hard = env.task.loss(student_BC, batch['label']).mean()
    soft = env.task.gap(student_BC, teacher_BC, c.temperature).mean()
    return c.hard * hard + c.soft * soft, (memory, dict(hard=hard, soft=soft))

  return base.Method({'student': base.Player(('student',), loss)}, asks='logits')
