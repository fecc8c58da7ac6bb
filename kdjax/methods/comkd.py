"""Combined-KD, Li et al. (2021), arXiv:2109.05696: Annealing-KD's phases on MATE-KD's text.

Phase 1: the generator raises MSE(S(x'), T(x')); the student lowers MSE(S(x), a T(x)) and
MSE(S(x'), a T(x')), a rising to 1. Phase 2: CE on gold labels. After the released RoBERTa code of
github.com/huawei-noah/KD-NLP; in phase 2 that goes on training the generator, to no effect, which
is left out here. It also trains the student without dropout: config.train.dropout=False.
"""

import jax

from kdjax.methods import annealing_kd, base, blend, mate_kd


def make(c, env) -> base.Method:
  """Three players; fields in configs/comkd.py."""
  base.check_images('comkd', env.images)
  write = mate_kd.view(c, env).call
  game = mate_kd.against(c, base.Method({}), mate_kd.adversary(c, env))

  def regress(params, memory, batch, key):
    k_drop, k_new, k_drop_new = jax.random.split(key, 3)
    student = env.student(params['student'], batch, k_drop)
    teacher = env.teacher.answer(params['teacher'], batch)
    new, _ = write(jax.lax.stop_gradient(params), (), batch, student, teacher, k_new)
    new_student = blend.read(env.student, params['student'], new.batch, new.student, k_drop_new)
    new_teacher = blend.read(env.teacher, params['teacher'], new.batch, new.teacher)
    a = annealing_kd.factor(c, memory)
    soft, augmented = (
      annealing_kd.mean_square(s.logits, a * t.logits).mean()
      for s, t in ((student, teacher), (new_student, new_teacher))
    )
    metrics = new.metrics | dict(soft=soft, augmented=augmented, factor=a)
    return (soft + augmented) / 2, (annealing_kd.ticked(memory, batch), metrics)

  players = game.players | {'regress': base.Player(('student',), regress)}
  names = {'generator': 'generator', 'student': 'regress'}
  return annealing_kd.phased(c, env, players, lambda step: names[game.turn(step, 0)])
