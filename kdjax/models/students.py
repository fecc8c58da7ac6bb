"""Students: a teacher cut to some of its layers, or a smaller random model of the same family."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kdjax import net
from kdjax.models import bert, encoders, families, hf


def cut(
  module: bert.Encoder, config: Any, layers: int | Sequence[int], pick: str = 'skip'
) -> tuple[bert.Encoder, Any]:
  """(student, its config): some of the teacher's layers, with its embeddings and its head.

  layers: how many, picked by pick; or the indices themselves, in the student's order. The arrays
  are copies: a training step may donate the student's without deleting the teacher's. Raises
  ValueError for a number or an index that the teacher does not have. Of ModernBERT, each layer
  attends to all tokens, or to those that are near, as it did. Starting from every other layer is
  DistilBERT's choice (Sanh et al. 2019, arXiv:1910.01108).
  """
  chosen = choose(module.spec.layers, layers, pick)
  params = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(module, nnx.Param)))
  params['layers'] = module.pick(params['layers'], chosen)
  config = _resized(config, chosen)
  own = families.spec(config, head=module.spec.head).own
  spec = dataclasses.replace(module.spec, layers=len(chosen), own=own)
  return net.fill(encoders.abstract(spec), params), config


def choose(n: int, layers: int | Sequence[int], pick: str = 'skip') -> tuple[int, ...]:
  """Indices of the teacher's n layers.

  pick: 'first', 'last'; 'skip': evenly spaced with both ends, round(linspace(0, n - 1, layers)),
  halves to even, one layer is layer 0, of 12 six are 0, 2, 4, 7, 9, 11; or 'every': the last layer
  of each of as many blocks, (i + 1) n / layers - 1 rounded down, of 12 six are 1, 3, 5, 7, 9, 11.
  """
  if isinstance(layers, Sequence):
    chosen = tuple(layers)
    wrong = [l for l in chosen if not 0 <= l < n]
    if wrong or not chosen:
      raise ValueError(f'layers {chosen}: the teacher has layers 0 to {n - 1}')
    return chosen
  if not 1 <= layers <= n:
    raise ValueError(f'cannot pick {layers} layers from a teacher of {n}')
  if pick == 'first':
    return tuple(range(layers))
  if pick == 'last':
    return tuple(range(n - layers, n))
  if pick == 'skip':
    return tuple(int(l) for l in np.round(np.linspace(0, n - 1, layers)))
  if pick == 'every':
    return tuple((i + 1) * n // layers - 1 for i in range(layers))
  raise ValueError(f"pick {pick!r} is not one of 'first', 'last', 'skip', 'every'")


def random(
  config: Any,
  *,
  layers: int | None = None,
  width: int | None = None,
  heads: int | None = None,
  ffn: int | None = None,
  head: str = 'classify',
  seed: int = 0,
  **knobs: Any,
) -> tuple[bert.Encoder, Any]:
  """(student, its config): random weights, the teacher's family and vocabulary.

  None keeps the teacher's size. ELECTRA keeps its embedding width. Raises ValueError where the
  width is not divisible by the heads. knobs: of families.spec.
  """
  depth = getattr(config, families.get(config.model_type).sizes['layers'])
  # What differs by layer goes on as it began where there are to be more.
  chosen = None if layers is None else [l % depth for l in range(layers)]
  config = _resized(config, chosen, width=width, heads=heads, ffn=ffn)
  return hf.build(config, head=head, seed=seed, **knobs), config


def _resized(config: Any, chosen: Sequence[int] | None, **sizes: int | None) -> Any:
  """A copy of the config with these layers, and sizes under the family's own attribute names."""
  config = copy.deepcopy(config)
  family = families.get(config.model_type)
  if chosen is not None:
    sizes['layers'] = len(chosen)
    if getattr(config, 'layer_types', None):
      config.layer_types = [config.layer_types[l] for l in chosen]
  for field, size in sizes.items():
    if size is None:
      continue
    if size < 1:
      raise ValueError(f'{field}={size}: must be at least 1')
    setattr(config, family.sizes[field], size)
    for name, same in family.follows.items():
      if same == field and hasattr(config, name):
        setattr(config, name, size)
  return config
