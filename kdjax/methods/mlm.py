"""Masked language modelling, Devlin et al. (2018), arXiv:1810.04805: guess the hidden tokens.

How generators are made, before they play against a student: labels are not used, and the player
called 'student' is the masked language model itself.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.methods import base, masking


def make(c, env) -> base.Method:
  """The loss is the mean cross-entropy over the hidden tokens; fields as of `hider`."""
  hide = hider(c, env)

  def loss(params, memory, batch, key):
    k_hide, k_show, k_drop = jax.random.split(key, 3)
    own = params['student']
    shown, slots_BK, overflow = hide(batch, k_hide, k_show)
    out = env.student(own, shown, k_drop)
    # Logits of the hidden tokens alone: over all of [B, L] they would cost seven times as much.
    logits_BKV = env.student.decode(own, masking.take(out.hidden[-1], slots_BK))
    logits_SV, gold_S, real_S = slots(logits_BKV, batch['tokens'], slots_BK)
    guess = mean(losses.cross_entropy(logits_SV, gold_S), real_S)
    top1 = mean(logits_SV.argmax(-1) == gold_S, real_S)
    return guess, (memory, dict(guess=guess, top1=top1, overflow=overflow))

  return base.Method({'student': base.Player(('student',), loss)})


def hider(c, env) -> Callable:
  """(batch, k_hide, k_show) -> (batch as it is shown, slots i32[B, K], overflow f32[]).

  c.rho: share of the ordinary tokens to be guessed; c.slack: of masking.capacity.
  c.style: 'bert' shows [MASK] for 80 % of them, a random ordinary token for 10 % and the token
  itself for 10 %; 'mask' shows [MASK] for all, as a generator will see them.
  """
  base.check_images(c.name, env.images)
  base.one_of(c, style=('bert', 'mask'))
  base.positive(c, 'rho')
  base.share(c, 'rho')
  if env.mask_id is None:
    raise ValueError(f'{c.name} hides tokens, and the tokenizer has no mask token')
  words_W = jnp.flatnonzero(env.ordinary).astype(jnp.int32)

  def show(tokens_BL, hidden_BL, key):
    if c.style == 'mask':
      return jnp.where(hidden_BL, env.mask_id, tokens_BL)
    k_kind, k_word = jax.random.split(key)
    kind_BL = jax.random.uniform(k_kind, tokens_BL.shape)
    other_BL = words_W[jax.random.randint(k_word, tokens_BL.shape, 0, words_W.size)]
    changed_BL = jnp.where(
      kind_BL < 0.8, env.mask_id, jnp.where(kind_BL < 0.9, other_BL, tokens_BL)
    )
    return jnp.where(hidden_BL, changed_BL, tokens_BL)

  def hide(batch, k_hide, k_show):
    tokens = batch['tokens']
    room = masking.capacity(tokens.shape[1], c.rho, c.slack)
    slots_BK, hidden_BL, overflow = masking.hide(k_hide, batch['maskable'], c.rho, room)
    shown = batch | dict(tokens=show(tokens, hidden_BL, k_show))
    return shown, slots_BK, overflow.astype(jnp.float32)

  return hide


def slots(logits_BKV, tokens_BL, slots_BK) -> tuple[jax.Array, jax.Array, jax.Array]:
  """All slots S = B K in a line: logits [S, V], the hidden tokens i32[S], slots in use bool[S]."""
  gold_S = masking.take(tokens_BL, slots_BK).reshape(-1)
  real_S = (slots_BK < tokens_BL.shape[1]).reshape(-1)
  return logits_BKV.reshape(-1, logits_BKV.shape[-1]), gold_S, real_S


def mean(value_S, real_S) -> jax.Array:
  """Mean over the slots in use; 0 where there are none."""
  return (value_S * real_S).sum() / jnp.maximum(real_S.sum(), 1)
