"""AugPro (ICLR 2023): mix or perturb word embeddings, project to tokens, let the teacher label.

The two models see the same new text, each through its own embeddings; gold labels are not used on
it. What the paper settles and was not to be had (weights, lambda, epsilon, the table) is a field of
the config; docs/methods.md says which defaults are ours.
"""

import jax
import jax.numpy as jnp

from kdjax import augment
from kdjax.methods import base


def make(c, env) -> base.Method:
  """c.kind: 'mix' or 'fgsm'; the rest of the fields are explained in configs/augpro.py."""
  if env.mismatch:
    raise ValueError(f'augpro writes one text for teacher and student, but {env.mismatch}')
  base.one_of(
    c,
    kind=('mix', 'fgsm'),
    lam_mode=('token', 'example', 'fixed'),
    table=('student', 'teacher'),
    metric=augment.METRICS,
  )
  base.positive(c, 'temperature', 'alpha')
  space = getattr(env, c.table)

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
    mixed = augment.mixup(e_BLE, e_BLE[partner], lam_of(k_lam, tokens.shape))
    # Special tokens and padding keep their place: nothing is mixed with them.
    usable = batch['maskable'] & batch['maskable'][partner]
    return mixed, usable, jnp.stack([tokens, tokens[partner]], -1)

  def fgsm(params, batch, key, student_BC, teacher_BC):
    del key

    def gap(e_BLE):  # deterministic: no dropout in the direction
      logits_BC = space.encode(params[c.table], e_BLE, batch['mask'], batch['segments']).logits
      pair = (logits_BC, teacher_BC) if c.table == 'student' else (student_BC, logits_BC)
      return env.task.gap(*pair, c.temperature)

    e_BLE = space.embed(params[c.table], batch['tokens'])
    return augment.fgsm(gap, e_BLE, c.epsilon), batch['maskable'], batch['tokens'][..., None]

  def rewrite(params, batch, key, student_BC, teacher_BC):
    """-> new ids i32[B, L], and the ids that they came from i32[B, L, 1 or 2]."""
    k_make, k_open = jax.random.split(key)
    make_queries = mix if c.kind == 'mix' else lambda *a: fgsm(*a, student_BC, teacher_BC)
    queries, usable, sources = make_queries(params, batch, k_make)
    table_VE = space.table(params[c.table])
    near = augment.nearest_token(
      queries,
      table_VE,
      env.ordinary[: table_VE.shape[0]],  # tables may be padded beyond the vocabulary
      c.metric,
      sources if c.forbid_own else None,
    )
    usable &= jax.random.uniform(k_open, usable.shape) < c.portion
    return jnp.where(usable, near, batch['tokens']), sources

  def loss(params, memory, batch, key):
    k_drop, k_new, k_drop_new = jax.random.split(key, 3)
    student_BC = env.student(params['student'], batch, k_drop).logits
    teacher_BC = env.teacher(params['teacher'], batch).logits
    frozen = jax.lax.stop_gradient(params)
    new, sources = rewrite(frozen, batch, k_new, jax.lax.stop_gradient(student_BC), teacher_BC)
    twin = batch | dict(tokens=new)
    new_student_BC = env.student(params['student'], twin, k_drop_new).logits
    new_teacher_BC = env.teacher(params['teacher'], twin).logits

    hard = env.task.loss(student_BC, batch['label']).mean()
    soft = env.task.gap(student_BC, teacher_BC, c.temperature).mean()
    augmented = env.task.gap(new_student_BC, new_teacher_BC, c.temperature).mean()

    changed = new != batch['tokens']
    third = changed & (new[..., None] != sources).all(-1)
    fresh_B = changed.any(1)
    relabelled_B = fresh_B & env.task.differs(teacher_BC, new_teacher_BC)
    metrics = dict(
      hard=hard,
      soft=soft,
      augmented=augmented,
      moved=changed.sum() / jnp.maximum(batch['maskable'].sum(), 1),
      third=third.sum() / jnp.maximum(changed.sum(), 1),
      relabelled=relabelled_B.sum() / jnp.maximum(fresh_B.sum(), 1),
    )
    return c.hard * hard + c.soft * soft + c.augmented * augmented, (memory, metrics)

  return base.Method({'student': base.Player(('student',), loss)})
