"""ModernBERT, Warner et al. (2024), arXiv:2412.13663: rotary positions, gated blocks, near and far.

What is added to is not normed (pre-norm): each block norms what it reads, the first one reads the
embeddings, which are, and one more norm is at the end. A block attends to all tokens, or to those
at most window away; the two kinds rotate by bases of their own. Weights' names and meanings:
transformers' ModernBertModel. Parts and letters are those of bert.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kdjax.models import bert, families

Array = jax.Array


def angles(length: int, width: int, theta: float) -> tuple[Array, Array]:
  """Cosines and sines f32[L, K / 2] of rotary positions (Su et al., arXiv:2104.09864).

  Position p turns pair i by p / theta^(2i / K).
  """
  speed = 1 / theta ** (np.arange(0, width, 2) / width)
  angle_LK = jnp.outer(jnp.arange(length, dtype=jnp.float32), jnp.asarray(speed, jnp.float32))
  return jnp.cos(angle_LK), jnp.sin(angle_LK)


def rotate(x_BLHK: Array, turn: tuple[Array, Array]) -> Array:
  """x with each pair (i, i + K / 2) turned by the angle of its position; in float32."""
  cos, sin = (a[None, :, None] for a in turn)
  a, b = jnp.split(x_BLHK.astype(jnp.float32), 2, -1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x_BLHK.dtype)


class Layer(nnx.Module):
  """Norm, attention, added; norm, gated feed-forward, added. The first block lacks its first norm.

  Parameters are named as BERT's: mix_norm and norm are before attention and feed-forward here.
  """

  def __init__(self, spec: families.Spec, l: int, key: Array):
    keys = jax.random.split(key, 7)
    width, std, own = spec.width, spec.initializer_range, spec.own
    last = std / math.sqrt(2 * spec.layers)  # of what is added to the stream
    self.spec, self.everywhere = spec, own.everywhere[l]
    if l:
      self.mix_norm = bert.Norm(width, spec.norm_bias)
    self.query = bert.Dense(width, width, std, keys[0], own.attention_bias)
    self.key = bert.Dense(width, width, std, keys[1], own.attention_bias)
    self.value = bert.Dense(width, width, std, keys[2], own.attention_bias)
    self.mix = bert.Dense(width, width, last, keys[3], own.attention_bias)
    self.norm = bert.Norm(width, spec.norm_bias)
    self.up = bert.Dense(width, spec.ffn, std, keys[4], own.ffn_bias)
    self.gate = bert.Dense(width, spec.ffn, std, keys[5], own.ffn_bias)
    self.down = bert.Dense(spec.ffn, width, last, keys[6], own.ffn_bias)

  def __call__(self, x_BLD: Array, mask: Array, key: Array | None, common: Any) -> Array:
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    k_attention, k_mix, k_ffn = bert.split(key, 3)
    turn, near_LM = common[self.everywhere]
    y_BLD = self.mix_norm(x_BLD, spec.eps, dtype) if hasattr(self, 'mix_norm') else x_BLD
    q, k, v = (
      dense(y_BLD, dtype).reshape(*y_BLD.shape[:2], spec.heads, -1)
      for dense in (self.query, self.key, self.value)
    )
    q, k = rotate(q, turn), rotate(k, turn)
    a_BLD = bert.attend(spec, q, k, v, mask, k_attention, near_LM=near_LM).reshape(x_BLD.shape)
    x_BLD = x_BLD + bert.drop(self.mix(a_BLD, dtype), spec.mix_dropout, k_mix)
    y_BLD = self.norm(x_BLD, spec.eps, dtype)
    y_BLF = bert.activation(spec.activation)(self.up(y_BLD, dtype)) * self.gate(y_BLD, dtype)
    return x_BLD + self.down(bert.drop(y_BLF, spec.own.ffn_dropout, k_ffn), dtype)


class Classifier(nnx.Module):
  """First token, or the mean of the real ones -> dense, activation, norm -> logits f32[B, C]."""

  def __init__(self, spec: families.Spec, key: Array):
    k_dense, k_out = jax.random.split(key)
    width, std = spec.width, spec.initializer_range / math.sqrt(2 * spec.layers)
    self.spec = spec
    self.dense = bert.Dense(width, width, std, k_dense, spec.head_bias)
    self.norm = bert.Norm(width, spec.norm_bias)
    self.out = bert.Dense(width, spec.num_labels, width**-0.5, k_out)

  def __call__(self, x_BLD: Array, mask: Array, key: Array | None) -> Array:
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    if spec.own.pooling == 'mean':
      real = mask.astype(jnp.float32)
      x_BD = jnp.einsum('BLD,BL->BD', x_BLD.astype(jnp.float32), real)
      x_BD = x_BD / jnp.maximum(real.sum(1, keepdims=True), 1)
    else:
      x_BD = x_BLD[:, 0]
    x_BD = bert.activation(spec.head_activation)(self.dense(x_BD, dtype))
    x_BD = self.norm(x_BD, spec.eps, dtype)
    return self.out(bert.drop(x_BD, spec.head_dropout, key), dtype, jnp.float32)


class Encoder(bert.Encoder):
  """ModernBERT: the interface of bert.Encoder."""

  classifier = Classifier

  def __init__(self, spec: families.Spec, key: Array):
    """Normal weights of initializer_range, of what is added divided by sqrt(2 N)."""
    super().__init__(spec, key)
    self.norm = bert.Norm(spec.width, spec.norm_bias)

  @staticmethod
  def make_layer(spec: families.Spec, l: int, key: Array) -> Layer:
    return Layer(spec, l, key)

  @staticmethod
  def pick(layers: dict[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
    """As bert.Encoder's; what becomes the first block loses its first norm.

    The teacher's first block, which has none, gets one of scale 1 in another place.
    """
    picked = bert.Encoder.pick(layers, chosen)
    for new, layer in picked.items():
      if new == '0':
        layer.pop('mix_norm', None)
      elif 'mix_norm' not in layer:
        layer['mix_norm'] = {n: jnp.full_like(p, n == 'scale') for n, p in layer['norm'].items()}
    return picked

  def common(self, length: int) -> dict[bool, tuple]:
    """By whether a block attends everywhere: (cosines and sines, bool[L, L] what is near)."""
    spec, own = self.spec, self.spec.own
    width = spec.width // spec.heads
    near_LM = None
    if not (isinstance(length, int) and length <= own.window + 1):  # an export's is a symbol
      places = jnp.arange(length)
      near_LM = jnp.abs(places[:, None] - places[None]) <= own.window
    return {
      True: (angles(length, width, own.theta), None),
      False: (angles(length, width, own.near_theta), near_LM),
    }

  def finish(self, x_BLD: Array) -> Array:
    return self.norm(x_BLD, self.spec.eps, jnp.dtype(self.spec.dtype))
