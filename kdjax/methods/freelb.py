"""Adversarial word embeddings: FreeLB, Zhu et al. (2020), ICLR, arXiv:1909.11764; and FGSM.

Beside the KD terms, the student learns from embeddings that were moved to raise its own loss. The
teacher reads the text alone, so the two may have tokenizers of their own. Nothing is projected back
to tokens.

freelb: K steps of ascent with the gradient of norm 1, each back into an L2 ball, from a uniform
draw; the student's gradient is the mean over the K points. One backward pass gives both gradients,
for the next point and for the student, and all passes of a step have one dropout mask, as in the
paper. From memory: that, the draw U(-radius, radius) / sqrt(numbers that move), all real positions
(special tokens too). Ours: every default, the KD terms, the teacher as the target.

fgsm: one signed step up the same loss, Goodfellow et al. (2015), arXiv:1412.6572.
"""

import jax
import jax.numpy as jnp

from kdjax import augment
from kdjax.methods import base

KINDS = ('freelb', 'fgsm')


def make(c, env) -> base.Method:
  """L = hard CE(x) + soft gap(x) + augmented L'(e + delta); c.target: what L' compares with."""
  base.one_of(c, kind=KINDS, target=('label', 'teacher'))
  base.positive(c, 'temperature', 'epsilon', 'radius', 'rate', 'steps')
  net, task = env.student, env.task

  def loss(params, memory, batch, key):
    k_drop, k_start = jax.random.split(key)
    student_BC = net(params['student'], batch, k_drop).logits
    teacher_BC = env.teacher.answer(params['teacher'], batch).logits

    def off(logits_BC):  # f32[B]: how far from the target
      if c.target == 'label':
        return task.loss(logits_BC, batch['label'])
      return task.gap(logits_BC, teacher_BC, c.temperature)

    def at(student, delta_BLE):
      e_BLE = net.embed(student, batch[net.view + 'tokens']) + delta_BLE
      return off(net.enter(student, batch, e_BLE, k_drop).logits)

    augmented, last, delta_BLE = (fgsm if c.kind == 'fgsm' else freelb)(params, batch, at, k_start)
    hard = task.loss(student_BC, batch['label']).mean()
    soft = task.gap(student_BC, teacher_BC, c.temperature).mean()
    clean = hard if c.target == 'label' else soft
    metrics = dict(
      hard=hard,
      soft=soft,
      augmented=augmented,
      rise=last / jnp.maximum(clean, 1e-12),  # at the last point, over the same loss on the text
      moved_norm=jnp.sqrt(jnp.square(delta_BLE).sum((1, 2))).mean(),
    )
    return c.hard * hard + c.soft * soft + c.augmented * augmented, (memory, metrics)

  def inside(delta_BLE, batch):  # pixels stay in their range
    if not env.images:
      return delta_BLE
    e_BLE = batch[net.view + 'tokens']
    return jnp.clip(e_BLE + delta_BLE, *env.bounds) - e_BLE

  def fgsm(params, batch, at, key):
    del key
    still = jax.lax.stop_gradient(params['student'])
    real_BL1 = net.mask(batch)[..., None]
    e_BLE = net.embed(still, batch[net.view + 'tokens'])
    delta_BLE = augment.fgsm(lambda d: at(still, d), jnp.zeros_like(e_BLE), c.epsilon)
    delta_BLE = inside(jnp.where(real_BL1, delta_BLE, 0.0), batch)
    value = at(params['student'], delta_BLE).mean()
    return value, value, delta_BLE

  def freelb(params, batch, at, key):
    still = jax.lax.stop_gradient(params['student'])
    real_BL1 = net.mask(batch)[..., None]
    e_BLE = net.embed(still, batch[net.view + 'tokens'])
    numbers_B11 = real_BL1.sum((1, 2), keepdims=True) * e_BLE.shape[-1]
    draw_BLE = jax.random.uniform(key, e_BLE.shape, jnp.float32, -c.radius, c.radius)
    start_BLE = jnp.where(real_BL1, draw_BLE, 0.0) * jax.lax.rsqrt(numbers_B11.astype(jnp.float32))

    def ascend(carry, _):
      delta_BLE, total, grads = carry
      here = jax.value_and_grad(lambda s, d: at(s, d).mean(), (0, 1))
      value, (g_student, g_BLE) = here(still, delta_BLE)
      g_BLE = jnp.where(real_BL1, g_BLE, 0.0)
      moved_BLE = delta_BLE + c.rate * g_BLE / jnp.maximum(_norm(g_BLE), 1e-12)
      moved_BLE *= jnp.minimum(1.0, c.radius / jnp.maximum(_norm(moved_BLE), 1e-12))
      grads = jax.tree.map(lambda a, b: a + b / c.steps, grads, g_student)
      moved_BLE = inside(moved_BLE, batch)
      return (moved_BLE, total + value / c.steps, grads), (value, delta_BLE)

    begin = (inside(start_BLE, batch), jnp.zeros(()), jax.tree.map(jnp.zeros_like, still))
    (_, total, grads), (values_K, points_KBLE) = jax.lax.scan(ascend, begin, None, c.steps)
    # A number with this value and this gradient: the passes above need no second time.
    slopes = jax.tree.map(lambda g, p, s: (g * (p - s)).sum(), grads, params['student'], still)
    return total + sum(jax.tree.leaves(slopes)), values_K[-1], points_KBLE[-1]

  return base.Method({'student': base.Player(('student',), loss)}, asks='logits')


def _norm(x_BLE):
  return jnp.sqrt(jnp.square(x_BLE).sum((1, 2), keepdims=True))
