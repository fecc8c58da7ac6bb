"""A method is a small game: players that own parameters, a memory, and a rule for whose turn it is.

Distillation is the one-player game; an adversarial generator makes it a two-player one. What most
methods share, KD with views and terms beside it, is in blend.py.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from kdjax import methods

Key = jax.Array
Params = dict[str, Any]  # by name: 'student', 'teacher', 'generator', 'heads', ...
Memory = Any  # carried from step to step, changed without gradients; () for most
Metrics = dict[str, jax.Array]  # scalars; the step adds the player's name
# tokens, segments i32[B, L]; mask, maskable bool[B, L]; label; index. Images: tokens f32[B, P, C].
Batch = dict[str, jax.Array]
Loss = Callable[[Params, Memory, Batch, Key], tuple[jax.Array, tuple[Memory, Metrics]]]


class Data(NamedTuple):
  """What a method may know of the training set when it starts.

  index: i32[n], as in the batches, unique. label: i32[n], f32[n] or f32[n, C]. batch_size: rows a
  step. steps: of the whole run, all players together.
  """

  index: Any
  label: Any
  batch_size: int
  steps: int


class Player(NamedTuple):
  """Moves the parameters that it owns so as to lower its loss.

  optimizer: fields of config.train that are this player's own: dict(rate=5e-7, warmup=0.0), say.
  """

  owns: tuple[str, ...]
  loss: Loss
  optimizer: Mapping[str, float] = {}


def nothing(key: Key, params: Params, data: Data) -> tuple[Params, Memory]:
  """No parameters beyond the models', no memory."""
  del key, params, data
  return {}, ()


class Method(NamedTuple):
  """Parameters that no player owns are frozen: no gradient, no optimizer, no checkpoint.

  init: (key, params, data) -> (parameters to add, memory at step 0). Memory leaves are strongly
    typed and alias no parameter: the state is donated. What is named 'bank' is split over the mesh
    by rows.
  asks: what a loss reads of env.teacher.answer, and can be known beforehand: '': nothing, 'logits',
    or beside them one vector a layer, 'first' or 'mean' (layers.POOLS).
  turn: (step, steps of the run) -> name of the player who moves; called on the host.
  check: (steps of the run, steps of an epoch); ValueError where the method needs a longer run.
    Called before anything is trained.
  """

  players: dict[str, Player]
  init: Callable[[Key, Params, Data], tuple[Params, Memory]] = nothing
  turn: Callable[[int, int], str] = lambda step, steps: 'student'
  asks: str = ''
  check: Callable[[int, int], None] = lambda steps, epoch: None


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


def share(c, *fields: str) -> None:
  """ValueError, naming the field, where a number of the config is not in 0 to 1."""
  for field in fields:
    if not 0 <= c[field] <= 1:
      raise ValueError(f'config.method.{field}={c[field]} must be from 0 to 1')


# Methods that write, look up or guess tokens.
TOKENS = ('augpro', 'cilda', 'comkd', 'mate_kd', 'mlm', 'mlm_kd', 'token_replace')


def check_images(name: str, images: bool) -> None:
  """ValueError, with the methods that there are, where images go to a method for text."""
  if images and name in TOKENS:
    work = ', '.join(other for other in methods.names() if other not in TOKENS)
    raise ValueError(f'method {name} is for text: images have no tokens; for them there are {work}')


def same_ids(name: str, env) -> None:
  """ValueError where teacher and student read different ids: no one text is for both."""
  if env.mismatch:
    raise ValueError(f'{name} writes one text for teacher and student, but {env.mismatch}')
