"""Optimizers: AdamW with linear warm-up and decay, clipping, no decay on vectors."""

from typing import Any

import jax
import optax


def schedule(rate: float, turns: int, warmup: float) -> optax.Schedule:
  """0 up to rate over the first share `warmup` of the turns, then linearly down to 0."""
  rising = round(warmup * turns)
  return optax.join_schedules(
    [
      optax.linear_schedule(rate / (rising + 1), rate, rising),
      optax.linear_schedule(rate, 0.0, max(turns - rising, 1)),
    ],
    [rising],
  )


def matrices(params: Any) -> Any:
  """True where weight decay applies: not on biases and layer norms, which are vectors."""
  return jax.tree.map(lambda p: p.ndim > 1, params)


def make(c, turns: int, **own: float) -> optax.GradientTransformation:
  """The chain of one player; its schedule counts that player's own turns.

  c: rate, warmup, decay, beta1, beta2, epsilon, clip (0: none). own: those of them that this player
  has otherwise.
  """
  c = c.copy_and_resolve_references()
  c.update(own)
  clip = optax.clip_by_global_norm(c.clip) if c.clip else optax.identity()
  adamw = optax.adamw(
    schedule(c.rate, turns, c.warmup),
    b1=c.beta1,
    b2=c.beta2,
    eps=c.epsilon,
    weight_decay=c.decay,
    mask=matrices,
  )
  return optax.chain(clip, adamw)
