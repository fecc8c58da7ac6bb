"""CILDA, Haidar et al. (2022), arXiv:2204.07674: MATE-KD that also parts the models inside.

The generator raises, beside the divergence of the answers, a contrastive loss between projected
hidden states of teacher and student. No official code is known: the abstract says that
intermediate layers serve to write better text; pooling, sizes, weights and the gold label on new
text follow a third party's code, and are all fields of the config.
"""

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.methods import base, blend, layers, mate_kd


def make(c, env) -> base.Method:
  """Two players; fields in configs/cilda.py."""
  base.check_images('cilda', env.images)
  base.one_of(c, owner=('generator', 'student', 'nobody'))
  if c.owner == 'student' and not c.student_contrast:
    raise ValueError(
      'config.method.owner=student: it trains the heads by its own contrast alone, and '
      'config.method.student_contrast=0'
    )
  if c.also and c.student_contrast:
    raise ValueError(
      f'config.method.also={c.also.name} and config.method.student_contrast={c.student_contrast}: '
      'the student has one term on hidden states: empty the first, or set the second to 0'
    )
  beside = contrast(c, env, c.gen_contrast)
  beside = beside._replace(owns=beside.owns if c.owner == 'generator' else ())
  own = None
  if c.student_contrast:
    # The heads are the generator's to begin: one pair of them, whoever trains it.
    own = contrast(c, env, c.student_contrast)
    owns = own.owns if c.owner == 'student' else ()
    own = own._replace(init=base.nothing, owns=owns)
  student = blend.distil(c, env, mate_kd.view(c, env), own, on=c.student_on)
  return mate_kd.against(c, student, mate_kd.adversary(c, env, beside), beside)


def term(c, env) -> blend.Part:
  """The contrast alone, lowered by the student and its heads beside another method's views."""
  return contrast(c, env, c.weight)


def contrast(c, env, weight: float) -> blend.Part:
  """weight * in_batch_nce(teacher's projected layers, student's), over the global batch."""
  base.one_of(c, pool=layers.POOLS)
  base.positive(c, 'tau', 'dims')
  picks = dict(teacher=c.teacher_layers, student=c.student_layers)

  def states(params, batch, name, out):
    net = getattr(env, name)
    chosen = layers.choose(picks[name], out.hidden.shape[0] - 1, field=f'{name}_layers')
    return layers.pooled(net, batch, out.hidden, chosen, c.pool)

  def init(key, params, data):
    del data
    heads = {}
    for name, k in zip(picks, jax.random.split(key), strict=True):
      blocks, width = layers.sizes(getattr(env, name), params[name])
      chosen = layers.choose(picks[name], blocks, field=f'{name}_layers')
      heads[name] = layers.head(k, len(chosen) * width, c.dims)
    return dict(heads=heads), ()

  def call(params, memory, batch, student, teacher, key):
    del key
    u_BE, v_BE = (
      layers.project(params['heads'][name], states(params, batch, name, out))
      for name, out in (('teacher', teacher), ('student', student))
    )
    contrast = losses.in_batch_nce(u_BE, v_BE, c.tau).mean()
    # One row has no others: its contrast is 0, and so is its logarithm.
    scale = 1 / jnp.log(max(u_BE.shape[0], 2)) if c.norm_log_k else 1.0
    return weight * scale * contrast, memory, dict(contrast=contrast)

  return blend.Part(call, ('heads',), init, pool=c.pool)
