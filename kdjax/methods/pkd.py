"""PKD, Sun et al. (2019), arXiv:1908.09355: a patient student follows the teacher layer by layer.

Beside KD, the normalised first-token states of student layers approach those of teacher layers,
every few ('skip') or the last ones ('last'); the last layer of all is left to the logits. The
released code is github.com/intersun/PKD-for-BERT-Model-Compression. Ours: the distance is summed
over features (released: a mean over them, under a weight that much larger), a linear head where the
widths differ, the only layer of a student of one, and every token in the place of the first.
"""

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.methods import base, blend, layers


def make(c, env) -> base.Method:
  """KD with the distance of hidden states on the text; fields in configs/pkd.py."""
  return blend.distil(c, env, term=term(c, env))


def term(c, env) -> blend.Part:
  """weight * squared distance of unit states, mean over pairs of layers and examples.

  pool='tokens': of each real token, mean over those of a text.
  """
  base.one_of(c, pool=(*layers.POOLS, 'tokens'))
  tokens = c.pool == 'tokens'
  if tokens and env.teacher.view != env.student.view:
    raise ValueError(
      "pkd: pool='tokens' pairs the tokens of one text, and teacher and student have a tokenizer "
      "each: take 'mean'"
    )

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
      x_BLD, real_BL = compared(env.student, batch, student.hidden[l])
      y_BLD, _ = compared(env.teacher, batch, teacher.hidden[m])
      if heads:
        x_BLD = jax.vmap(layers.project, (None, 1), 1)(heads[str(l)], x_BLD)
      gap_BL = jnp.square(losses.unit(x_BLD) - losses.unit(y_BLD)).sum(-1)
      gap_B = jnp.where(real_BL, gap_BL, 0).sum(1) / jnp.maximum(real_BL.sum(1), 1)
      found.append(gap_B.mean())
    distance = sum(found) / len(found)
    return c.weight * distance, memory, dict(distance=distance)

  def compared(net, batch, hidden_BLD):
    """f32[B, L, D] and which of it, bool[B, L]; L is 1 where a text has one vector."""
    if not tokens or hidden_BLD.shape[1] == 1:
      x_BD = layers.states(net, batch, hidden_BLD[None], c.pool)[0]
      return x_BD[:, None], jnp.ones((len(x_BD), 1), bool)
    real_BL = net.mask(batch)
    # Chosen, not multiplied: padding may hold anything.
    return jnp.where(real_BL[..., None], hidden_BLD.astype(jnp.float32), 0), real_BL

  # Nobody keeps the states of every token.
  return blend.Part(call, ('pkd_heads',), init, pool='' if tokens else c.pool)
