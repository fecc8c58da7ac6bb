"""Optimizers: AdamW with linear warm-up and decay, clipping, no decay on vectors."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Schedule(NamedTuple):
  """A rate by turns: up to `rate` in the first `rising` of them, then down to 0 in `falling` more.

  first: at turn 0, where there is a warm-up. Of numbers, or of f32[] in an optimizer's state.
  """

  first: Any
  rate: Any
  rising: Any
  falling: Any

  def __call__(self, turn) -> jax.Array:
    """The rate at a turn, counted from 0."""
    up = self.first + (self.rate - self.first) * turn / jnp.maximum(self.rising, 1)
    down = self.rate * jnp.maximum(1 - (turn - self.rising) / self.falling, 0)
    return jnp.where(turn < self.rising, up, down)


def schedule(rate: float, turns: int, warmup: float, from_zero: bool = False) -> Schedule:
  """Up to rate in the warm-up, then linearly down to 0 at the last turn.

  warmup: a share of the turns; from 1 on, their number. from_zero: the first turn's rate is 0, as
  in most released codes; otherwise it is a step above, and no turn is lost.
  """
  rising = round(warmup if warmup >= 1 else warmup * turns)
  first = 0.0 if from_zero else rate / (rising + 1)
  return Schedule(first, rate, rising, max(turns - rising, 1))


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
    scheduled(rates),
  )


class _Turns(NamedTuple):
  count: jax.Array
  schedule: Schedule


def scheduled(rates: Schedule) -> optax.GradientTransformation:
  """Updates times the negative rate of their turn.

  The schedule's numbers are state, not constants of a program: one compiled for one rate, and one
  number of steps, is there for all others.
  """

  def init(params):
    del params
    return _Turns(jnp.zeros((), jnp.int32), jax.tree.map(jnp.float32, rates))

  def update(updates, state, params=None):
    del params
    rate = state.schedule(state.count)
    updates = jax.tree.map(lambda u: -rate * u, updates)
    return updates, state._replace(count=state.count + 1)

  return optax.GradientTransformation(init, update)


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
