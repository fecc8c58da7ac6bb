"""Optimizers: AdamW with linear warm-up and decay, clipping, no decay on vectors."""

import math
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
  rates = schedule(c.rate, turns if c.horizon == 'own' else steps, c.warmup, c.from_zero)
  return optax.chain(
    clip(c.clip) if c.clip else optax.identity(),
    adam(c.beta1, c.beta2, c.epsilon, early=c.adam == 'huggingface'),
    optax.add_decayed_weights(c.decay, matrices),
    optax.scale_by_learning_rate(rates),
  )


class _Moments(NamedTuple):
  count: jax.Array
  mu: Any
  nu: Any


def adam(b1: float, b2: float, eps: float, early: bool = False) -> optax.GradientTransformation:
  """m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps): Adam, Kingma and Ba (2015), algorithm 1.

  As optax.scale_by_adam, but both corrections of bias are factors of no axis: a division of every
  number less by each, a quarter of the update's time on a CPU (docs/performance.md).

  early: as transformers 3's AdamW, where epsilon joins the root before its bias is corrected: early
  on, gradients near eps move less.
  """

  def init(params):
    zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(2)]
    return _Moments(jnp.zeros((), jnp.int32), *zeros)

  def update(grads, state, params=None):
    del params
    count = state.count + 1
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
    # 1 - b^t as float64 has it: of 0.999, float32 is off by 1e-5 at first.
    first, second = (-1 / jnp.expm1(count * (math.log(b) if b else -math.inf)) for b in (b1, b2))
    second = jnp.sqrt(second)
    if early:
      first, second = first / second, 1.0
    moves = jax.tree.map(lambda m, v: first * m / (second * jnp.sqrt(v) + eps), mu, nu)
    return moves, _Moments(count, mu, nu)

  return optax.GradientTransformation(init, update)


def clip(most: float) -> optax.GradientTransformation:
  """Gradients times min(1, most / their global norm): optax.clip_by_global_norm, as one factor."""

  def update(grads, state, params=None):
    del params
    factor = most / jnp.maximum(optax.tree.norm(grads), most)
    return jax.tree.map(lambda g: factor * g, grads), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
