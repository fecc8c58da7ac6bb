"""A method is a small game: players that own parameters, a memory, and a rule for whose turn it is.

Distillation is the one-player game; an adversarial generator makes it a two-player one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Key = jax.Array
Params = dict[str, Any]  # by name: 'student', 'teacher', 'generator', ...
Memory = Any  # carried from step to step, changed without gradients; () for most
Metrics = dict[str, jax.Array]  # scalars; the step adds the player's name
Batch = dict[str, jax.Array]  # tokens, segments i32[B, L]; mask, maskable bool[B, L]; label; index
Loss = Callable[[Params, Memory, Batch, Key], tuple[jax.Array, tuple[Memory, Metrics]]]


class Player(NamedTuple):
  """Moves the parameters that it owns so as to lower its loss."""

  owns: tuple[str, ...]
  loss: Loss


def nothing(key: Key, params: Params, data: Any) -> tuple[Params, Memory]:
  """No parameters beyond the models', no memory."""
  del key, params, data
  return {}, ()


class Method(NamedTuple):
  """Parameters that no player owns are frozen: no gradient, no optimizer, no checkpoint.

  init: (key, params, data) -> (parameters to add, memory at step 0).
  turn: step -> name of the player who moves; called on the host.
  """

  players: dict[str, Player]
  init: Callable[[Key, Params, Any], tuple[Params, Memory]] = nothing
  turn: Callable[[int], str] = lambda step: 'student'


def one_of(c, **choices: tuple[str, ...]) -> None:
  """ValueError, naming the field, where a switch of the config has none of its values."""
  for field, known in choices.items():
    if c[field] not in known:
      raise ValueError(f'config.method.{field}={c[field]!r} is none of {", ".join(known)}')


def positive(c, *fields: str) -> None:
  """ValueError, naming the field, where a number of the config is not above zero."""
  for field in fields:
    if not c[field] > 0:
      raise ValueError(f'config.method.{field}={c[field]} must be above 0')
