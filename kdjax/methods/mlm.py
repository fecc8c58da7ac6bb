"""Masked language modelling, Devlin et al. (2018), arXiv:1810.04805: guess the hidden tokens.

How generators are made, before they play against a student: labels are not used, and the player
called 'student' is the masked language model itself.
"""

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.methods import base, masking


def make(c, env) -> base.Method:
  """c.rho: share of the ordinary tokens to be guessed; c.slack: of masking.capacity.

  c.style: 'bert' shows [MASK] for 80 % of them, a random ordinary token for 10 % and the token
  itself for 10 %; 'mask' shows [MASK] for all, as a generator will see them.
  """
  base.check_images('mlm', env.images)
  base.one_of(c, style=('bert', 'mask'))
  base.positive(c, 'rho')
  base.share(c, 'rho')
  if env.mask_id is None:
    raise ValueError('mlm hides tokens, and the tokenizer has no mask token')
  words_W = jnp.flatnonzero(env.ordinary).astype(jnp.int32)

  def shown(tokens_BL, hidden_BL, key):
    if c.style == 'mask':
      return jnp.where(hidden_BL, env.mask_id, tokens_BL)
    k_kind, k_word = jax.random.split(key)
    kind_BL = jax.random.uniform(k_kind, tokens_BL.shape)
    other_BL = words_W[jax.random.randint(k_word, tokens_BL.shape, 0, words_W.size)]
    changed_BL = jnp.where(
      kind_BL < 0.8, env.mask_id, jnp.where(kind_BL < 0.9, other_BL, tokens_BL)
    )
    return jnp.where(hidden_BL, changed_BL, tokens_BL)

  def loss(params, memory, batch, key):
    k_hide, k_show, k_drop = jax.random.split(key, 3)
    tokens, own = batch['tokens'], params['student']
    room = masking.capacity(tokens.shape[1], c.rho, c.slack)
    slots_BK, hidden_BL, overflow = masking.hide(k_hide, batch['maskable'], c.rho, room)
    out = env.student(own, batch | dict(tokens=shown(tokens, hidden_BL, k_show)), k_drop)
    # Logits of the hidden tokens alone: over all of [B, L] they would cost seven times as much.
    logits_BKV = env.student.decode(own, masking.take(out.hidden[-1], slots_BK))

    V = logits_BKV.shape[-1]
    gold_S, real_S = (
      masking.take(tokens, slots_BK).reshape(-1),
      (slots_BK < tokens.shape[1]).ravel(),
    )
    logits_SV = logits_BKV.reshape(-1, V)
    n = jnp.maximum(real_S.sum(), 1)
    guess = (losses.cross_entropy(logits_SV, gold_S) * real_S).sum() / n
    top1 = ((logits_SV.argmax(-1) == gold_S) & real_S).sum() / n
    return guess, (memory, dict(guess=guess, top1=top1, overflow=overflow.astype(jnp.float32)))

  return base.Method({'student': base.Player(('student',), loss)})
