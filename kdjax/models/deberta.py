"""DeBERTa-v2 and -v3, He et al. (arXiv:2006.03654, 2111.09543): BERT with relative positions.

A score is the product of two contents, of content and relative position (c2p), and of relative
position and content (p2c), each kind through projections of its own or, as in v3, through those of
the content. Weights' names and meanings: transformers' DebertaV2Model. Parts and letters are those
of bert.py; R rows of the table of relative positions, S distances, from -(L - 1) to L - 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kdjax.models import bert, deberta_config, families

Array = jax.Array


def rows(own: deberta_config.Own, length: int) -> np.ndarray:
  """Row of the table for each distance, from -(length - 1) to length - 1: i[S].

  Up to half the buckets each distance has its own; the rest of them are for farther ones, by the
  logarithm.
  """
  d = np.arange(1 - length, length)
  if own.buckets:
    half = own.buckets // 2
    far = np.log(np.maximum(np.abs(d), half) / half)
    far = np.ceil(far / np.log([(own.farthest - 1) / half]) * (half - 1)).astype(int) + half
    d = np.where(np.abs(d) <= half, d, np.sign(d) * far)
  return np.clip(d + own.span, 0, 2 * own.span - 1)


def skew(x_XLS: Array) -> Array:
  """[..., L, S] -> [..., L, L]: row i's j-th is x's at S = j - i, counted from -(L - 1).

  A product with every distance, shifted by rows: no gather, and no scatter in its gradient.
  """
  *outer, L, S = x_XLS.shape
  x = jnp.pad(x_XLS, [(0, 0)] * len(outer) + [(0, 0), (0, 1)]).reshape(*outer, L * (S + 1))
  return x[..., L - 1 : L - 1 + L * S].reshape(*outer, L, S)[..., :L]


class Layer(bert.Layer):
  """BERT's block, the attention of which knows how far apart two tokens are."""

  def __init__(self, spec: families.Spec, key: Array):
    super().__init__(spec, key)
    own, width, std = spec.own, spec.width, spec.initializer_range
    if not own.shared:
      ways = ['key'] * own.to_position + ['query'] * own.from_position
      keys = jax.random.split(jax.random.fold_in(key, 6), len(ways))
      self.position = nnx.Dict(
        {way: bert.Dense(width, width, std, k) for way, k in zip(ways, keys, strict=True)}
      )

  def attend(self, q_BLHK, k_BLHK, v_BLHK, mask: Array, key: Array | None, common: Any) -> Array:
    """common: the table of relative positions f32[R, D]."""
    spec, own = self.spec, self.spec.own
    k_attention, k_table = bert.split(key, 2)
    L = q_BLHK.shape[1]
    at = rows(own, L)
    low, high = at.min(), at.max() + 1  # what a short text does not reach is not projected
    table_RD = bert.drop(common, spec.dropout, k_table)[low:high]
    through = self if own.shared else self.position

    def products(x_BLHK, project, at):
      """Of content and projected relative positions, at each distance: f32[B, H, L, S]."""
      p_RHK = project(table_RD, x_BLHK.dtype).reshape(-1, *x_BLHK.shape[2:])
      p_SHK = p_RHK[at - low]
      return jnp.einsum('BLHK,SHK->BHLS', x_BLHK, p_SHK, preferred_element_type=jnp.float32)

    bias = 0
    if own.to_position:  # the distance is the query's place less the key's
      bias = bias + skew(products(q_BLHK, through.key, at[::-1]))
    if own.from_position:
      bias = bias + skew(products(k_BLHK, through.query, at)).swapaxes(-1, -2)
    terms = 1 + own.to_position + own.from_position
    return bert.attend(spec, q_BLHK, k_BLHK, v_BLHK, mask, k_attention, bias_BHLM=bias, terms=terms)


class Encoder(bert.Encoder):
  """DeBERTa: the interface of bert.Encoder."""

  free_length = False  # rows of distances are numbers of the program

  def __init__(self, spec: families.Spec, key: Array):
    super().__init__(spec, key)
    k_table = jax.random.fold_in(key, 3)
    self.relative = bert.Table(2 * spec.own.span, spec.width, spec.initializer_range, k_table)
    if spec.own.normed:
      self.relative_norm = bert.Norm(spec.width)

  @staticmethod
  def make_layer(spec: families.Spec, l: int, key: Array) -> Layer:
    return Layer(spec, key)

  def common(self, length: int) -> Array:
    """The table of relative positions f32[R, D]."""
    table = self.relative.table[...]
    return self.relative_norm(table, self.spec.eps, jnp.float32) if self.spec.own.normed else table
