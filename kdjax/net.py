"""A model seen from outside: the only bridge from Flax modules (models/) to plain functions."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from kdjax import sharding

Params = dict[str, Any]  # nested dicts of arrays, string keys
Batch = dict[str, jax.Array]

_IDS = jax.ShapeDtypeStruct((4,), np.int32)


class Out(NamedTuple):
  """What an encoder returns.

  logits: f32[B, C] (classifier), or f32[B, L, V] (masked-LM head).
  hidden: [N+1, B, L, D]; hidden[0] leaves the embedding layer, hidden[N] the last block.
  """

  logits: jax.Array
  hidden: jax.Array


@dataclasses.dataclass(frozen=True)
class Net:
  """Pure functions of a model's parameters; jax.jit takes it as it is.

  embed: (params, ids i32[B, L] or probs f32[B, L, V]) -> word embeddings [B, L, E]
  encode: (params, e [B, L, E], mask bool[B, L], segments i32[B, L], key=None) -> Out; a key
    means dropout, none means deterministic
  table: params -> word-embedding table [V, E]
  decode: (params, hidden [..., D]) -> logits f32[..., V]; of a masked-LM head alone
  view: prefix of the batch keys this net reads. 'teacher_' for a teacher with a tokenizer of its
    own, whose batch carries teacher_tokens, teacher_segments and teacher_mask.
  row: shape and type of one row of tokens: ids [L], of any L, or pixels [P, channels].
  """

  embed: Callable[..., jax.Array]
  encode: Callable[..., Out]
  table: Callable[..., jax.Array]
  decode: Callable[..., jax.Array] | None = None
  view: str = ''
  row: jax.ShapeDtypeStruct = _IDS

  def __call__(self, params: Params, batch: Batch, key: jax.Array | None = None) -> Out:
    """Embed, then encode: tokens, mask and segments of the batch."""
    return self.enter(params, batch, self.embed(params, batch[self.view + 'tokens']), key)

  def answer(self, params: Params, batch: Batch, key: jax.Array | None = None) -> Out:
    """The Out of a frozen net on a batch as it was read: known where the batch carries it.

    teacher_logits f32[B, C]; teacher_states f32[B, N+1, D]: one vector a layer, as hidden states
    of texts of length 1. What the batch does not carry, and what dropout asks for, is computed.
    """
    if key is not None or 'teacher_logits' not in batch:
      return self(params, batch, key)
    if 'teacher_states' in batch:
      return Out(batch['teacher_logits'], batch['teacher_states'].swapaxes(0, 1)[:, :, None])
    # Under jit, hidden states that nobody reads cost nothing.
    return self(params, batch)._replace(logits=batch['teacher_logits'])

  def enter(
    self, params: Params, batch: Batch, e_BLE: jax.Array, key: jax.Array | None = None
  ) -> Out:
    """Encode other word embeddings [B, L, E] in the place of the batch's tokens."""
    return self.encode(params, e_BLE, self.mask(batch), batch[self.view + 'segments'], key)

  def mask(self, batch: Batch) -> jax.Array:
    """bool[B, L]: the real positions of the text as this net reads it."""
    return batch[self.view + 'mask']

  def dummy(self) -> Batch:
    """Shapes of a batch of one row that this net reads, for jax.eval_shape."""
    places = (1, self.row.shape[0])
    shapes = dict(
      tokens=jax.ShapeDtypeStruct((1, *self.row.shape), self.row.dtype),
      segments=jax.ShapeDtypeStruct(places, np.int32),
      mask=jax.ShapeDtypeStruct(places, np.bool_),
    )
    return {self.view + name: shape for name, shape in shapes.items()}


def split(module: nnx.Module) -> tuple[Net, Params]:
  """Cut a module once into functions and parameters.

  The module holds nnx.Param and nothing else, and has methods embed, encode, table and decode; and
  a row where it does not read ids.
  """
  graph, state = nnx.split(module, nnx.Param)

  def method(name):
    return lambda params, *args: getattr(nnx.merge(graph, params), name)(*args)

  def embed(params, x):
    # The word table is split by width. Each device looks up the rows of all that share its parts
    # with it, and they exchange: left alone, XLA would collect the whole batch, or the table.
    words = x.ndim == 2
    if words:
      x = sharding.constrain(x, 'data')
    e_BLE = method('embed')(params, x)
    if words:
      for axes in (sharding.BOTH, 'fsdp'):
        e_BLE = sharding.constrain(e_BLE, 'data', None, axes)
    return sharding.constrain(e_BLE, sharding.ROWS)

  def encode(params, e_BLE, *args):
    # Rows stay where they are, and kernels come to them: of embeddings that a method has put
    # together, XLA once spread the width over the devices, and the whole batch's rows on each.
    out = method('encode')(params, sharding.constrain(e_BLE, sharding.ROWS), *args)
    return out._replace(hidden=sharding.constrain(out.hidden, None, sharding.ROWS))

  cut = Net(embed, encode, method('table'), method('decode'))
  cut = dataclasses.replace(cut, row=getattr(module, 'row', _IDS))
  return cut, nnx.to_pure_dict(state)


def fill(module: nnx.Module, params: Params) -> nnx.Module:
  """A copy of the module that holds these parameters."""
  graph, _ = nnx.split(module, nnx.Param)
  return nnx.merge(graph, params)
