"""MATE-KD, Rashid et al. (2021), arXiv:2105.05912: a generator writes where the models part.

Some words are hidden, a masked language model fills them in. For gen_turns batches it learns to
write text on which the student diverges from the teacher, for student_turns the student learns the
teacher's answers to text and to what is written, and so on. The released code is
github.com/huawei-noah/KD-NLP; docs/methods.md lists where it, the paper and this file differ.
"""

import jax
import jax.numpy as jnp

from kdjax import augment, losses
from kdjax.methods import base, blend, masking


def make(c, env) -> base.Method:
  """Two players; fields in configs/mate_kd.py."""
  base.check_images('mate_kd', env.images)
  return against(c, blend.distil(c, env, view(c, env)), adversary(c, env))


def against(c, student: base.Method, generator: base.Player, beside=None) -> base.Method:
  """A one-player method, with the generator's turns before each of its stretches."""
  if c.gen_turns < 0 or c.student_turns < 1:
    raise ValueError(
      f'config.method.gen_turns={c.gen_turns}, student_turns={c.student_turns}: the generator may '
      'have none, the student needs one'
    )
  around = c.gen_turns + c.student_turns

  def init(key, params, data):
    extra, memory = student.init(key, params, data)
    if beside:
      extra |= beside.init(jax.random.fold_in(key, 2), params, data)[0]
    return extra, memory

  return student._replace(
    players=student.players | {'generator': generator},
    init=init,
    turn=lambda step, steps: 'generator' if step % around < c.gen_turns else 'student',
  )


def view(c, env) -> blend.Part:
  """Of the student's turn: sampled ids instead of one-hots, text of the same kind."""
  fill = blanks(c, env)

  def call(params, memory, batch, student, teacher, key):
    del student, teacher
    k_fill, k_drop, k_sample = jax.random.split(key, 3)
    slots_BK, logits_BKV, metrics = fill(params, batch, k_fill, k_drop if c.gen_dropout else None)
    ids_BK = augment.sample(logits_BKV, k_sample)
    found = blend.rewritten(batch, masking.put(batch['tokens'], slots_BK, ids_BK))
    return found._replace(metrics=found.metrics | metrics), memory

  return blend.Part(call)


def adversary(c, env, beside: blend.Part | None = None) -> base.Player:
  """Raises gen_gap D(student(x'), teacher(x')) + beside, through straight-through draws."""
  base.one_of(c, gen_objective=('kl', 'cross_entropy', 'mse'))
  base.positive(c, 'gumbel', 'gen_rate')
  fill = blanks(c, env)

  def divergence(student_BC, teacher_BC):
    if c.gen_objective == 'mse':
      return losses.squared_gap(student_BC, teacher_BC) / student_BC.shape[1]
    kind = env.task.gap if c.gen_objective == 'kl' else env.task.cross
    return kind(student_BC, teacher_BC, c.temperature)

  def loss(params, memory, batch, key):
    k_fill, k_drop, k_sample, k_student, k_beside = jax.random.split(key, 5)
    slots_BK, logits_BKV, metrics = fill(params, batch, k_fill, k_drop)
    ids_BK, soft_BKV = augment.gumbel_draw(logits_BKV, k_sample, c.gumbel)

    def enter(name, key):
      net, own = getattr(env, name), params[name]
      table_VE = net.table(own)
      soft = masking.sized(soft_BKV, table_VE.shape[0])
      words_BKE = augment.straight_through(net.embed(own, ids_BK), soft, table_VE)
      e_BLE = masking.put(net.embed(own, batch['tokens']), slots_BK, words_BKE)
      return net.enter(own, batch, e_BLE, key)

    student = enter('student', k_student if c.student_dropout else None)
    teacher = enter('teacher', None)
    found = divergence(student.logits, teacher.logits).mean()
    total = c.gen_gap * found
    if beside:
      value, _, more = beside.call(params, memory, batch, student, teacher, k_beside)
      total, metrics = total + value, metrics | more
    return -total, (memory, metrics | dict(found=found))

  owns = ('generator', *(beside.owns if beside else ()))
  return base.Player(owns, loss, dict(rate=c.gen_rate, warmup=0.0, decay=0.0))


def blanks(c, env):
  """(params, batch, key, key or None) -> (slots i32[B, K], logits f32[B, K, V], metrics)."""
  if env.generator is None or env.mask_id is None:
    raise ValueError(f'{c.name} needs a generator: set config.method.generator=True')
  base.same_ids(c.name, env)
  base.share(c, 'rho')
  base.positive(c, 'slack')

  def fill(params, batch, key, key_drop):
    tokens = batch['tokens']
    room = masking.capacity(tokens.shape[1], c.rho, c.slack)
    slots_BK, hidden, overflow = masking.hide(key, batch['maskable'], c.rho, room)
    masked = batch | dict(tokens=jnp.where(hidden, env.mask_id, tokens))
    out = env.generator(params['generator'], masked, key_drop)
    states_BKD = masking.take(out.hidden[-1], slots_BK)
    logits_BKV = env.generator.decode(params['generator'], states_BKD)

    # Every model must have a row for what is written; tables may be padded.
    V = min(getattr(env, k).table(params[k]).shape[0] for k in ('student', 'teacher'))
    usable_V = jnp.arange(logits_BKV.shape[-1]) < V
    if c.ordinary_only:
      usable_V &= masking.sized(env.ordinary, usable_V.shape[0])
    logits_BKV = jnp.where(usable_V[None, None], logits_BKV, jnp.finfo(jnp.float32).min)
    log_p = jax.nn.log_softmax(logits_BKV)
    real_BK = slots_BK < tokens.shape[1]
    entropy_BK = -jnp.where(usable_V[None, None], jnp.exp(log_p) * log_p, 0).sum(-1)
    metrics = dict(
      hidden=hidden.sum() / jnp.maximum(batch['maskable'].sum(), 1),
      overflow=overflow.astype(jnp.float32),
      entropy=(entropy_BK * real_BK).sum() / jnp.maximum(real_BK.sum(), 1),
    )
    return slots_BK, logits_BKV, jax.lax.stop_gradient(metrics)

  return fill
