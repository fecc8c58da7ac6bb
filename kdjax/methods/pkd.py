"""PKD, Sun et al. (2019), arXiv:1908.09355: a patient student follows the teacher layer by layer.

Beside KD, the normalised first-token states of student layers approach those of teacher layers,
every few ('skip') or the last ones ('last'); the last layer of all is left to the logits. The
released code is github.com/intersun/PKD-for-BERT-Model-Compression. Ours: the distance is summed
over features (released: a mean over them, under a weight that much larger), a linear head where the
widths differ, and the only layer of a student of one.
"""

import jax

from kdjax import losses
from kdjax.methods import base, blend, layers


def make(c, env) -> base.Method:
  """KD with the distance of hidden states on the text; fields in configs/pkd.py."""
  return blend.distil(c, env, term=term(c, env))


def term(c, env) -> blend.Part:
  """weight * squared distance of unit states, mean over pairs of layers and examples."""
  base.one_of(c, pool=layers.POOLS)

  def pairs(student_blocks, teacher_blocks):
    layers.check_depths('pkd', student_blocks, teacher_blocks)
    below = max(student_blocks - 1, 1)
    ours = layers.choose(c.student_layers, student_blocks, below, 'student_layers')
    theirs = layers.choose(c.teacher_layers, teacher_blocks, len(ours), 'teacher_layers')
    if len(ours) != len(theirs):
      raise ValueError(
        f'config.method.student_layers={c.student_layers!r} are {len(ours)} layers, '
        f'teacher_layers={c.teacher_layers!r} are {len(theirs)}: they go in pairs'
      )
    return ours, theirs

  def init(key, params, data):
    del data
    (blocks, width), (teacher_blocks, teacher_width) = (
      layers.sizes(getattr(env, name), params[name]) for name in ('student', 'teacher')
    )
    ours, _ = pairs(blocks, teacher_blocks)
    heads = {}
    if width != teacher_width:
      heads = {str(l): layers.head(jax.random.fold_in(key, l), width, teacher_width) for l in ours}
    return dict(pkd_heads=heads), ()

  def call(params, memory, batch, student, teacher, key):
    del key
    heads, found = params['pkd_heads'], []
    for l, m in zip(*pairs(*(len(out.hidden) - 1 for out in (student, teacher))), strict=True):
      x_BD = layers.pooled(env.student, batch, student.hidden, (l,), c.pool)
      y_BD = layers.pooled(env.teacher, batch, teacher.hidden, (m,), c.pool)
      x_BD = layers.project(heads[str(l)], x_BD) if heads else x_BD
      found.append(losses.squared_gap(losses.unit(x_BD), losses.unit(y_BD)).mean())
    distance = sum(found) / len(found)
    return c.weight * distance, memory, dict(distance=distance)

  return blend.Part(call, ('pkd_heads',), init, pool=c.pool)
