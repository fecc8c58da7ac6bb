"""AugPro (ICLR 2023): mix or perturb word embeddings, project to tokens, let the teacher label.

The two models see the same new text, each through its own embeddings; gold labels are not used on
it. What the paper settles and was not to be had (weights, lambda, epsilon, the table) is a field of
the config; docs/methods.md says which defaults are ours.
"""

import jax
import jax.numpy as jnp

from kdjax import augment, projection
from kdjax.methods import base, blend

MOST = 64  # neighbours: their rows are looked up for each token of a batch


def make(c, env) -> base.Method:
  """KD, with text that is mixed or perturbed and projected beside it."""
  return blend.distil(c, env, view(c, env))


def view(c, env) -> blend.Part:
  """c.kind: 'mix' or 'fgsm'; the rest of the fields are explained in configs/augpro.py."""
  base.check_images('augpro', env.images)
  base.same_ids('augpro', env)
  base.one_of(
    c,
    kind=('mix', 'fgsm'),
    lam_mode=('token', 'example', 'fixed'),
    table=('student', 'teacher'),
    metric=augment.METRICS,
  )
  base.positive(c, 'alpha')
  base.share(c, 'portion', 'lam')
  if not c.epsilon >= 0:
    raise ValueError(f'config.method.epsilon={c.epsilon} must be 0 or more')
  if not 0 <= c.neighbours <= MOST:
    raise ValueError(f'config.method.neighbours={c.neighbours} must be from 0 to {MOST}')
  space = getattr(env, c.table)
  moves = 'student' if c.table == 'student' else ''  # the teacher's table is frozen
  # Proofs are about distances, and about tokens that may win.
  certain = c.neighbours > 0 and c.metric == 'l2' and not c.forbid_own

  def init(key, params, data):
    del key, data
    return {}, projection.start(
      space.table(params[c.table]), c.neighbours, moves
    ) if certain else ()

  def lam_of(key, shape):
    if c.lam_mode == 'fixed':
      # Half and half is an exact tie under L2: a seeded nudge decides, not rounding.
      return c.lam + 1e-3 * jax.random.uniform(key, shape, minval=-1, maxval=1)
    drawn = shape if c.lam_mode == 'token' else (shape[0], 1)
    if c.alpha == 1:  # Beta(1, 1), without its rejection sampling
      lam = jax.random.uniform(key, drawn)
    else:
      lam = jax.random.beta(key, c.alpha, c.alpha, drawn)
    return jnp.broadcast_to(lam, shape)

  def mix(params, batch, key):
    k_pair, k_lam = jax.random.split(key)
    tokens = batch['tokens']
    partner = jax.random.permutation(k_pair, tokens.shape[0])
    e_BLE = space.embed(params[c.table], tokens)
    # Tokens change places, not embeddings: the former are few bytes to send to another device.
    other_BLE = space.embed(params[c.table], tokens[partner])
    mixed = augment.mixup(e_BLE, other_BLE, lam_of(k_lam, tokens.shape))
    # Special tokens and padding keep their place: nothing is mixed with them.
    usable = batch['maskable'] & batch['maskable'][partner]
    return mixed, usable, jnp.stack([tokens, tokens[partner]], -1)

  def fgsm(params, batch, student_BC, teacher_BC):
    def gap(e_BLE):  # no dropout in the model whose table it is
      logits_BC = space.enter(params[c.table], batch, e_BLE).logits
      pair = (logits_BC, teacher_BC) if c.table == 'student' else (student_BC, logits_BC)
      return env.task.gap(*pair, c.temperature)

    e_BLE = space.embed(params[c.table], batch['tokens'])
    return augment.fgsm(gap, e_BLE, c.epsilon), batch['maskable'], batch['tokens'][..., None]

  def call(params, memory, batch, student, teacher, key):
    k_make, k_open = jax.random.split(key)
    if c.kind == 'mix':
      queries, usable, sources = mix(params, batch, k_make)
    else:
      queries, usable, sources = fgsm(params, batch, student.logits, teacher.logits)
    usable &= jax.random.uniform(k_open, usable.shape) < c.portion
    table_VE = space.table(params[c.table])
    allowed = env.ordinary[: table_VE.shape[0]]  # tables may be padded beyond the vocabulary
    if certain:
      pair = jnp.broadcast_to(sources, (*usable.shape, 2))

      def embed(ids):
        return space.embed(params[c.table], ids)

      near, settled, memory = projection.project(
        memory, queries, pair, usable, table_VE, allowed, embed, moves
      )
    else:
      bar, settled = sources if c.forbid_own else None, jnp.zeros_like(usable)
      near = augment.nearest_token(queries, table_VE, allowed, c.metric, bar, usable)
    new = blend.rewritten(batch, jnp.where(usable, near, batch['tokens']), sources)
    share = settled.sum() / jnp.maximum(usable.sum(), 1)
    return new._replace(metrics=new.metrics | dict(settled=share)), memory

  return blend.Part(call, init=init)
