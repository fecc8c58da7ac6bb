"""ALBERT, Lan et al. (2019), arXiv:1909.11942: BERT whose layers are one block, applied N times.

Word embeddings are narrower than the hidden states (E < D) and projected, as ELECTRA's are. Names
and meanings: transformers' AlbertModel. Parts and letters are those of bert.py.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.models import bert, families


class Encoder(bert.Encoder):
  """One block for all layers: a gradient is the sum of those of its N places."""

  @staticmethod
  def blocks(spec: families.Spec) -> int:
    return 1

  def block(self, l: int) -> bert.Layer:
    return self.layers['0']

  @staticmethod
  def pick(layers: dict[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
    """Whichever are chosen, they are the one block; their number is the student's N."""
    return jax.tree.map(jnp.copy, layers)
