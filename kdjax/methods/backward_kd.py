"""Backward-pass KD, Jafari, Rezagholizadeh, Ghodsi (2023): new samples where the models part most.

The samples climb D(x) = |S(x) - T(x)|^2, on logits, by plain gradient ascent on the teacher's word
embeddings z_T; the student reads Q z_T, with Q the least-squares map from the teacher's word table
to the student's. Then both learn from them as from text, and a new round climbs against the new
student. There is no projection back to tokens.

From the abstract: samples along the gradient of the gap, added to the training set; text too. From
memory: the gap on logits, plain ascent without sign or ball, the map Q, no samples in the first
round. Ours: the cap on the displacement (the ascent grows geometrically), the residual map, the
rows that Q is fitted on, which positions move, every default.

Images: both models read the same pixels, so that there is no map; all pixels move, and are clamped
to their range after each step.

The paper stores the samples of a round. Here each is made when its text is read, against the
student as it was when the round began (`anchor`): the same samples, without the store.
"""

import jax
import jax.numpy as jnp

from kdjax import augment, losses
from kdjax.methods import base, blend


def make(c, env) -> base.Method:
  """KD, and KD on the samples of the round; c.first_round scales the latter in the first one.

  At 0 nothing is generated then. What the samples put into the loss is taken out of it again,
  whose gradient is exactly 0; a term of c.also that reads them still reads the text itself.
  """
  base.share(c, 'first_round')
  method = blend.distil(c, env, view(c, env))
  player = method.players['student']

  def loss(params, memory, batch, key):
    first = memory['view']['clock'] < memory['view']['round']
    total, (memory, metrics) = player.loss(params, memory, batch, key)
    added = c.augmented * metrics['augmented']
    if c.hard_new:
      added += c.hard_new * metrics['hard_new']
    return total - jnp.where(first, 1 - c.first_round, 0.0) * added, (memory, metrics)

  def check(steps, epoch):
    first = turns(c, epoch)
    if not c.first_round and steps <= first:
      raise ValueError(
        f'config.method.round={c.round} is {first} steps and the run has {steps}: it would end in '
        'the first round, which has no samples, as plain KD; set config.method.round lower, to 0.1 '
        'say, or config.method.first_round above 0'
      )

  return method._replace(players={'student': player._replace(loss=loss)}, check=check)


def turns(c, epoch: int) -> int:
  """Steps of a round, of so many an epoch."""
  return max(1, round(c.round * epoch))


def view(c, env) -> blend.Part:
  """c.map: what the student reads of z_T. The fields are explained in configs/backward_kd.py."""
  base.same_ids('backward_kd', env)
  base.one_of(c, map=('residual', 'replace', 'same'))
  base.positive(c, 'rate', 'steps', 'cap', 'ridge', 'round')
  student, teacher = env.student, env.teacher

  def fit(params_student, params_teacher):
    """Q f32[E_S, E_T] of this student's table, on the ordinary rows that both tables have."""
    if env.images:
      return ()
    table_TE, table_SE = teacher.table(params_teacher), student.table(params_student)
    if c.map == 'same':
      if table_SE.shape[1] != table_TE.shape[1]:
        raise ValueError(
          f"config.method.map='same' needs word embeddings of one width, but the student's are "
          f"{table_SE.shape[1]} wide and the teacher's {table_TE.shape[1]}: take 'residual'"
        )
      return jnp.eye(table_SE.shape[1], dtype=jnp.float32)
    V = min(len(table_TE), len(table_SE), len(env.ordinary))  # a table may be padded
    return embedding_map(table_TE[:V], table_SE[:V], c.ridge, env.ordinary[:V])

  def init(key, params, data):
    del key
    # Counted in rows, not calls: a step of several accumulated parts is several calls.
    rows = turns(c, len(data.index) // data.batch_size) * data.batch_size
    anchor = jax.tree.map(jnp.copy, params['student'])  # the state is donated: no alias
    return {}, dict(
      clock=jnp.zeros((), jnp.int32),
      round=jnp.asarray(rows, jnp.int32),
      anchor=anchor,
      map=fit(anchor, params['teacher']),
    )

  def call(params, memory, batch, out_student, out_teacher, key):
    del out_student, out_teacher, key
    live, params = params, jax.lax.stop_gradient(params)
    anchor, map_ST = jax.lax.cond(
      memory['clock'] % memory['round'] == 0,
      lambda: (params['student'], fit(params['student'], params['teacher'])),
      lambda: (memory['anchor'], memory['map']),
    )
    free_BL = batch['maskable']
    start_BLT = teacher.embed(params['teacher'], batch['tokens']).astype(jnp.float32)

    def mapped(z_BLT, params_student):
      if env.images:
        return z_BLT
      own_BLS = student.embed(params_student, batch['tokens']).astype(jnp.float32)
      if c.map == 'replace':
        z_BLS = jnp.einsum('BLT,ST->BLS', z_BLT, map_ST, precision='highest')
      else:
        z_BLS = own_BLS + jnp.einsum('BLT,ST->BLS', z_BLT - start_BLT, map_ST, precision='highest')
      return jnp.where(free_BL[..., None], z_BLS, own_BLS)  # special tokens are not mapped

    def gap(z_BLT):  # deterministic; no gradient but the input's
      logits_BC = student.enter(anchor, batch, mapped(z_BLT, anchor)).logits
      return losses.squared_gap(logits_BC, teacher.enter(params['teacher'], batch, z_BLT).logits)

    # Not a step in the first round, where its samples count for nothing.
    idle = (memory['clock'] < memory['round']) & (c.first_round == 0)
    steps = jnp.where(idle, 0, c.steps)
    z_BLT = augment.ascend(gap, start_BLT, c.rate, steps, free_BL, c.cap, env.bounds)
    norm_B = jnp.sqrt(jnp.square(z_BLT - start_BLT).sum((1, 2)))
    before, after = gap(start_BLT).mean(), gap(z_BLT).mean()
    metrics = dict(
      gap_before=before,
      gap_after=after,
      rise=after / jnp.maximum(before, 1e-12),
      moved_norm=norm_B.mean(),
      capped=(norm_B > 0.999 * c.cap).mean(),
    )
    if env.images:
      # Pixels that the steps brought to an end of the range.
      metrics['clamped'] = sum(((z_BLT == v) & (start_BLT != v)).mean() for v in env.bounds)
    clock = memory['clock'] + batch['tokens'].shape[0]
    memory = memory | dict(clock=clock, anchor=anchor, map=map_ST)
    own = mapped(z_BLT, live['student'])  # trains the student's own vectors, not Q's share
    return blend.View(own, z_BLT, batch, norm_B > 0, metrics), memory

  return blend.Part(call, init=init, live=True)


def embedding_map(table_VT, table_VS, ridge: float, rows=None):
  """Q f32[S, T] = argmin_Q |Q W_T - W_S|^2 over the rows V of two word tables.

  Args:
    table_VT, table_VS: teacher's and student's, T and S wide; row v is the same token in both.
    ridge: added to the diagonal of W_T W_T^T, as a share of the diagonal's mean.
    rows: bool[V], those that count: rows that no text reaches weigh as much as any other.
  """
  table_VT, table_VS = (x.astype(jnp.float32) for x in (table_VT, table_VS))
  if rows is not None:
    table_VT = jnp.where(rows[:, None], table_VT, 0.0)
  square_TT = jnp.matmul(table_VT.T, table_VT, precision='highest')
  cross_TS = jnp.matmul(table_VT.T, table_VS, precision='highest')
  size = square_TT.shape[0]
  square_TT += ridge * jnp.trace(square_TT) / size * jnp.eye(size, dtype=jnp.float32)
  return jnp.linalg.solve(square_TT, cross_TS).T
