"""MixKD, Liang et al. (2021), ICLR, arXiv:2011.00593: mixtures of texts that the teacher answers.

Teacher and student each mix word embeddings in its own table, with one partner and one lambda for
both; nothing is projected back to tokens, so each may have a tokenizer of its own. The target is
the teacher's answer to its own mixture, and the two gold labels, by lambda.

From memory of the paper: lambda ~ Beta(alpha, alpha) per example, and the losses. Ours: the gap of
the answers is the task's (the paper: the squared error of logits); a mixture has the real positions
of both texts and the segments of the first; one mixture an example and step.
"""

import jax
import jax.numpy as jnp

from kdjax import augment
from kdjax.methods import base, blend


def make(c, env) -> base.Method:
  """KD, with mixtures beside it: c.augmented weighs the teacher's answer, c.hard_new the labels."""
  return blend.distil(c, env, view(c, env))


def view(c, env) -> blend.Part:
  """c.alpha: of Beta."""
  base.positive(c, 'alpha')

  def call(params, memory, batch, student, teacher, key):
    del student, teacher
    k_pair, k_lam = jax.random.split(key)
    rows = batch['tokens'].shape[0]
    partner_B = jax.random.permutation(k_pair, rows)
    lam_B = jax.random.beta(k_lam, c.alpha, c.alpha, (rows,))
    new, mixed = dict(batch), {}
    for name in ('student', 'teacher'):
      net = getattr(env, name)
      tokens = batch[net.view + 'tokens']
      # Tokens change places, not embeddings: few bytes to send to another device.
      pair = (net.embed(params[name], t) for t in (tokens, tokens[partner_B]))
      mixed[name] = augment.mixup(*pair, lam_B)
      mask_BL = net.mask(batch)
      new[net.view + 'mask'] = mask_BL | mask_BL[partner_B]

    def hard(logits_BC):  # gradient of the loss on the mixed label, whatever the task
      ours, theirs = (env.task.loss(logits_BC, y) for y in (batch['label'], label_partner))
      return lam_B * ours + (1 - lam_B) * theirs

    label_partner = batch['label'][partner_B]
    changed_B = partner_B != jnp.arange(rows)
    # 0: every mixture is one of its two texts; 1/2: halves.
    metrics = dict(mixed=jnp.where(changed_B, jnp.minimum(lam_B, 1 - lam_B), 0.0).mean())
    out = blend.View(mixed['student'], mixed['teacher'], new, changed_B, metrics, hard)
    return out, memory

  return blend.Part(call, live=True)
