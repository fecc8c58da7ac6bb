"""Optimizers: AdamW with linear warm-up and decay, clipping, no decay on vectors."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def schedule(rate: float, turns: int, warmup: float, from_zero: bool = False) -> optax.Schedule:
  """Up to rate in the warm-up, then linearly down to 0 at the last turn.

  warmup: a share of the turns; from 1 on, their number. from_zero: the first turn's rate is 0, as
  in most released codes; otherwise it is a step above, and no turn is lost.
  """
  rising = round(warmup if warmup >= 1 else warmup * turns)
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0 if from_zero else rate / (rising + 1), rate, rising),
      optax.linear_schedule(rate, 0.0, max(turns - rising, 1)),
    ],
    [rising],
  )


def matrices(params: Any) -> Any:
  """True where weight decay applies: not on biases and layer norms, which are vectors."""
  return jax.tree.map(lambda p: p.ndim > 1, params)


def make(c, turns: int, steps: int, **own: float) -> optax.GradientTransformation:
  """The chain of one player, who has so many turns in a run of so many steps.

  c: rate, warmup, from_zero, horizon, adam, decay, beta1, beta2, epsilon, clip (0: none).
  own: those of them that this player has otherwise.
  """
  c = c.copy_and_resolve_references()
  c.update(own)
  for field, known in dict(horizon=('own', 'all'), adam=('torch', 'huggingface')).items():
    if c[field] not in known:
      raise ValueError(f'config.train.{field}={c[field]!r} is none of {", ".join(known)}')
  adam = optax.scale_by_adam if c.adam == 'torch' else early_epsilon
  rates = schedule(c.rate, turns if c.horizon == 'own' else steps, c.warmup, c.from_zero)
  return optax.chain(
    optax.clip_by_global_norm(c.clip) if c.clip else optax.identity(),
    adam(c.beta1, c.beta2, c.epsilon),
    optax.add_decayed_weights(c.decay, matrices),
    optax.scale_by_learning_rate(rates),
  )


class _Moments(NamedTuple):
  count: jax.Array
  mu: Any
  nu: Any


def early_epsilon(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """Adam of transformers 3's AdamW: epsilon joins the root before its bias is corrected.

  m sqrt(1 - b2^t) / (1 - b1^t) / (sqrt(v) + eps): early on, gradients near eps move less than with
  torch's and optax's Adam.
  """

  def init(params):
    zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(2)]
    return _Moments(jnp.zeros((), jnp.int32), *zeros)

  def update(grads, state, params=None):
    del params
    count = state.count + 1
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
    scale = jnp.sqrt(1 - b2**count) / (1 - b1**count)
    return jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v) + eps), mu, nu), _Moments(
      count, mu, nu
    )

  return optax.GradientTransformation(init, update)
