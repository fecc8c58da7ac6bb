"""RAIL-KD, Haidar et al. (2022), arXiv:2109.10164: layers of the teacher drawn at random.

Every epoch as many layers of the teacher as the student has are drawn, sorted, and paired with the
student's in order. Beside KD, their pooled and projected states approach each other: all of them as
one vector ('concat', RAIL-KD_c), or each pair by heads of its own ('layer', RAIL-KD_l). No official
code is known: draws, distance and weights follow a third party's code, but padding is left out of
the mean.
"""

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.methods import base, blend, layers

Array = jax.Array


def make(c, env) -> base.Method:
  """KD with the distance of hidden states on the text; fields in configs/rail_kd.py."""
  return blend.distil(c, env, term=term(c, env))


def term(c, env) -> blend.Part:
  """weight * distance of unit vectors, mean over examples, and over pairs where there are some."""
  base.one_of(c, kind=('concat', 'layer'), every=('epoch', 'step'), pool=layers.POOLS)
  base.positive(c, 'dims')

  def vectors(states_NBD):
    """What is projected: one vector of all layers, or each by itself."""
    rows = list(states_NBD)
    return [jnp.concatenate(rows, 1)] if c.kind == 'concat' else rows

  def init(key, params, data):
    k_seed, k_heads = jax.random.split(key)
    found = {
      name: layers.sizes(getattr(env, name), params[name]) for name in ('student', 'teacher')
    }
    blocks = found['student'][0]
    layers.check_depths('rail_kd', blocks, found['teacher'][0])
    number, each = (1, blocks) if c.kind == 'concat' else (blocks, 1)
    heads = {}
    for n, (name, (_, width)) in enumerate(found.items()):
      keys = jax.random.split(jax.random.fold_in(k_heads, n), number)
      heads[name] = {str(i): layers.head(k, each * width, c.dims) for i, k in enumerate(keys)}
    steps = len(data.index) // data.batch_size if c.every == 'epoch' else 1
    memory = dict(
      seed=jax.random.bits(k_seed, dtype=jnp.uint32),
      seen=jnp.zeros((), jnp.int32),  # rows: accumulated parts of a batch share their draw
      period=jnp.asarray(steps * data.batch_size, jnp.int32),
    )
    return dict(rail_heads=heads), memory

  def call(params, memory, batch, student, teacher, key):
    del key
    blocks, teacher_blocks = (out.hidden.shape[0] - 1 for out in (student, teacher))
    drawn_N = draw(memory['seed'], memory['seen'] // memory['period'], teacher_blocks, blocks)
    theirs_NBD = layers.states(env.teacher, batch, teacher.hidden[drawn_N], c.pool)
    ours_NBD = layers.states(env.student, batch, student.hidden[1:], c.pool)
    heads, found, spread = params['rail_heads'], [], []
    for i, (x_BD, y_BD) in enumerate(zip(vectors(ours_NBD), vectors(theirs_NBD), strict=True)):
      u_BE = losses.unit(layers.project(heads['student'][str(i)], x_BD))
      v_BE = losses.unit(layers.project(heads['teacher'][str(i)], y_BD))
      found.append(layers.distance(u_BE, v_BE).mean())
      spread.append(1 - jnp.linalg.norm(v_BE.mean(0)))
    distance = sum(found) / len(found)
    metrics = dict(
      distance=distance,
      # Both heads learn: near 0, they have learned to say the same of every text.
      spread=jax.lax.stop_gradient(sum(spread) / len(spread)),
      layer=drawn_N.mean(dtype=jnp.float32),
    )
    seen = memory['seen'] + batch['index'].shape[0]
    return c.weight * distance, memory | dict(seen=seen), metrics

  return blend.Part(call, ('rail_heads',), init, pool=c.pool)


def draw(seed: Array, epoch: Array, blocks: int, count: int) -> Array:
  """i32[count], distinct layers 1 to blocks in order: the same all through an epoch."""
  key = jax.random.fold_in(jax.random.key(seed), epoch)
  return jnp.sort(jax.random.permutation(key, blocks)[:count]) + 1
