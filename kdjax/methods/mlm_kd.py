"""Distillation before any task: a small masked language model learns the guesses of a large one.

CoDIR, Sun et al. (2020), arXiv:2009.14167, for pre-training. What was released
(github.com/intersun/CoDIR) is (1 - beta) CE + beta T^2 KL over the hidden tokens, and no contrast;
the contrastive term here is ours, after the paper's "negatives from nearby text in the
mini-batch". At weight 0 it is not there, and this is plain KD of a masked language model.
"""

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.methods import base, blend, layers, masking, mlm

Array = jax.Array

MODELS = ('student', 'teacher')


def make(c, env) -> base.Method:
  """hard CE + soft T^2 KL(teacher || student) + weight contrast; fields in configs/mlm_kd.py.

  The first two are means over the hidden tokens. Teacher and student see one text behind the same
  masks, and the contrast reads the hidden states of that.
  """
  base.positive(c, 'temperature')
  if env.mismatch:
    raise ValueError(f'mlm_kd compares guesses of the same tokens, but {env.mismatch}')
  hide = mlm.hider(c, env)
  beside = contrast(c, env) if c.weight else None

  def loss(params, memory, batch, key):
    k_hide, k_show, k_drop = jax.random.split(key, 3)
    shown, slots_BK, overflow = hide(batch, k_hide, k_show)
    student = env.student(params['student'], shown, k_drop)
    teacher = env.teacher(params['teacher'], shown)

    def guesses(name, out):
      states_BKD = masking.take(out.hidden[-1], slots_BK)
      logits_BKV = getattr(env, name).decode(params[name], states_BKD)
      return mlm.slots(logits_BKV, batch['tokens'], slots_BK)

    student_SV, gold_S, real_S = guesses('student', student)
    teacher_SV, _, _ = guesses('teacher', teacher)
    V = min(student_SV.shape[1], teacher_SV.shape[1])  # tables may be padded, each in its own way
    both = student_SV[:, :V], teacher_SV[:, :V]
    best_S, other_S = (logits.argmax(-1) for logits in both)
    metrics = dict(
      hard=mlm.mean(losses.cross_entropy(student_SV, gold_S), real_S),
      soft=mlm.mean(losses.soft_kl(*both, c.temperature), real_S),
      top1=mlm.mean(best_S == gold_S, real_S),
      agree=mlm.mean(best_S == other_S, real_S),
      overflow=overflow,
    )
    total = c.hard * metrics['hard'] + c.soft * metrics['soft']
    if beside:
      value, memory, found = beside.call(params, memory, shown, student, teacher, key)
      total, metrics = total + value, metrics | found
    return total, (memory, metrics)

  if not beside:
    return base.Method({'student': base.Player(('student',), loss)})
  return base.Method({'student': base.Player(('student', *beside.owns), loss)}, beside.init)


def contrast(c, env) -> blend.Part:
  """weight * InfoNCE: pooled layers of a student's row know their own teacher's among the batch's.

  The negatives are the teacher's vectors of the other rows, which are of neighbouring text where
  config.data.neighbours puts such rows into one batch. The student's player trains both heads.
  """
  base.positive(c, 'tau', 'dims')
  base.one_of(c, pool=layers.POOLS)

  def choose(name, blocks):
    field = f'{name}_layers'
    return layers.choose(c[field], blocks, field=field)

  def init(key, params, data):
    del data
    heads = {}
    for name, k_head in zip(MODELS, jax.random.split(key), strict=True):
      blocks, width = layers.sizes(getattr(env, name), params[name])
      heads[name] = layers.head(k_head, len(choose(name, blocks)) * width, c.dims)
    return dict(contrast_heads=heads), ()

  def call(params, memory, batch, student, teacher, key):
    del key
    v = []
    for name, out in zip(MODELS, (student, teacher), strict=True):
      chosen = choose(name, out.hidden.shape[0] - 1)
      x = layers.pooled(getattr(env, name), batch, out.hidden, chosen, c.pool)
      v.append(layers.project(params['contrast_heads'][name], x))
    found = losses.in_batch_nce(*v, c.tau).mean()
    metrics = dict(contrast=found, ahead=ahead(*jax.lax.stop_gradient(v)))
    return c.weight * found, memory, metrics

  return blend.Part(call, ('contrast_heads',), init)


def ahead(anchor_BE: Array, positive_BE: Array) -> Array:
  """Share of rows whose own positive has the highest cosine of all; 1 / B: chance."""
  score_BB = jnp.matmul(losses.unit(anchor_BE), losses.unit(positive_BE).T, precision='highest')
  own_B = jnp.diagonal(score_BB)
  best_B = jnp.where(jnp.eye(len(own_B), dtype=bool), -jnp.inf, score_BB).max(1)
  return (own_B > best_B).mean(dtype=jnp.float32)
