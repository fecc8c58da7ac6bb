"""Models of images: a perceptron of some hidden layers, and a small residual network.

He et al. 2016, arXiv:1512.03385, with group norm (Wu and He 2018, arXiv:1803.08494) in the place of
batch norm: modules hold nnx.Param and nothing else, no statistics of past batches.

To the rest an image is a text of pixels: f32[B, P, C] in [0, 1], P = height * width positions, C
channels in the place of word embeddings. A model normalises inside, by constants of its own.

Shapes: B batch, P pixels, H height, W width, C channels, D width, N blocks.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from kdjax import net

Array = jax.Array

KINDS = ('mlp', 'resnet')
_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Spec:
  """All that decides a model's parameters and what they compute.

  kind: 'mlp' or 'resnet'. widths: of the blocks in order: hidden layers, or residual blocks, the
  resolution halving where the width changes. shape: (H, W, C) of an image. mean, std: by channel.
  """

  kind: str
  widths: tuple[int, ...]
  shape: tuple[int, int, int]
  num_labels: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  dtype: str = 'float32'


def architecture(word: str) -> tuple[str, tuple[int, ...]]:
  """'mlp:256,256' -> ('mlp', (256, 256)); ValueError for anything that is no such word."""
  kind, _, sizes = word.partition(':')
  parts = [part.strip() for part in sizes.split(',')]
  sizes_fit = len(parts) <= 256 and all(p.isdecimal() and len(p) < 6 and int(p) for p in parts)
  if kind not in KINDS or not sizes_fit:
    raise ValueError(f"{word!r} is no model of images, like 'mlp:256,256' or 'resnet:16,32,64'")
  return kind, tuple(map(int, parts))


class Dense(nnx.Module):
  """x [B, I] -> x @ kernel [I, O] + bias, He's initialisation."""

  def __init__(self, ins: int, outs: int, key: Array, gain: float = 2.0):
    std = math.sqrt(gain / ins)
    self.kernel = nnx.Param(std * jax.random.normal(key, (ins, outs), jnp.float32))
    self.bias = nnx.Param(jnp.zeros(outs, jnp.float32))

  def __call__(self, x: Array, dtype, out_dtype=None) -> Array:
    out_dtype = out_dtype or dtype
    y = jnp.matmul(
      x.astype(dtype), self.kernel[...].astype(dtype), preferred_element_type=out_dtype
    )
    return y + self.bias[...].astype(out_dtype)[None]


class Conv(nnx.Module):
  """x [B, H, W, I] -> [B, H / stride, W / stride, O], rounded up; no bias: a norm follows."""

  def __init__(self, ins: int, outs: int, size: int, key: Array):
    std = math.sqrt(2 / (size * size * ins))
    self.kernel = nnx.Param(std * jax.random.normal(key, (size, size, ins, outs), jnp.float32))

  def __call__(self, x: Array, stride: int, dtype) -> Array:
    return jax.lax.conv_general_dilated(
      x.astype(dtype),
      self.kernel[...].astype(dtype),
      (stride, stride),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


class Norm(nnx.Module):
  """Group norm over space and gcd(D, 8) channels; statistics in float32."""

  def __init__(self, width: int):
    self.groups = width // math.gcd(width, 8)
    self.scale = nnx.Param(jnp.ones(width, jnp.float32))
    self.bias = nnx.Param(jnp.zeros(width, jnp.float32))

  def __call__(self, x: Array, dtype) -> Array:
    B, H, W, D = x.shape
    x = x.astype(jnp.float32).reshape(B, H * W, self.groups, -1)
    x = x - x.mean((1, 3), keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean((1, 3), keepdims=True) + _EPS)
    x = x.reshape(B, H, W, D)
    scale, bias = (jax.lax.broadcast_to_rank(p[...], x.ndim) for p in (self.scale, self.bias))
    return (x * scale + bias).astype(dtype)


class Residual(nnx.Module):
  """Two 3 x 3 convolutions, added to the input, which is projected where the shape changes."""

  def __init__(self, ins: int, outs: int, key: Array):
    k_first, k_second, k_short = jax.random.split(key, 3)
    self.stride = 1 if ins == outs else 2
    self.first, self.first_norm = Conv(ins, outs, 3, k_first), Norm(outs)
    self.second, self.second_norm = Conv(outs, outs, 3, k_second), Norm(outs)
    if ins != outs:
      self.short, self.short_norm = Conv(ins, outs, 1, k_short), Norm(outs)

  def __call__(self, x: Array, dtype) -> Array:
    y = jax.nn.relu(self.first_norm(self.first(x, self.stride, dtype), dtype))
    y = self.second_norm(self.second(y, 1, dtype), dtype)
    if self.stride > 1:
      x = self.short_norm(self.short(x, self.stride, dtype), dtype)
    return jax.nn.relu(x + y)


class Vision(nnx.Module):
  """embed and encode as net.Net asks of a model; an image has no table and nothing to decode."""

  def __init__(self, spec: Spec, key: Array):
    k_stem, k_out, *k_blocks = jax.random.split(key, 2 + len(spec.widths))
    H, W, C = spec.shape
    self.spec = spec
    if spec.kind == 'mlp':
      make, ins = Dense, H * W * C
    else:
      make, ins = Residual, spec.widths[0]
      self.stem, self.stem_norm = Conv(C, ins, 3, k_stem), Norm(ins)
    blocks = {}
    for l, (outs, k_block) in enumerate(zip(spec.widths, k_blocks, strict=True)):
      blocks[str(l)], ins = make(ins, outs, k_block), outs
    self.blocks = nnx.Dict(blocks)
    self.out = Dense(ins, spec.num_labels, k_out, gain=1.0)

  @property
  def row(self) -> jax.ShapeDtypeStruct:
    """What one image is in a batch: pixels [P, C]."""
    H, W, C = self.spec.shape
    return jax.ShapeDtypeStruct((H * W, C), jnp.float32)

  def embed(self, pixels: Array) -> Array:
    """f32[B, P, C] as it is: pixels are their own embeddings, the same for every model."""
    return pixels.astype(jnp.float32)

  def encode(self, e_BPC: Array, mask: Array, segments: Array, key: Array | None = None) -> net.Out:
    """Pixels [B, P, C] -> Out; mask, segments and key, of texts, are not read: no dropout.

    hidden: [N+1, B, 1, D], one vector of an image after each block: a hidden layer, or the mean
    over space of a map; hidden[0] is the mean of the normalised pixels by channel. D is the
    greatest width, narrower vectors end in zeros. Raises ValueError on images of another shape.
    """
    del mask, segments, key
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    B, (H, W, C) = len(e_BPC), spec.shape
    if e_BPC.shape[1:] != (H * W, C):
      raise ValueError(
        f'images of {e_BPC.shape[1:]} pixels and channels, the model reads {H, W, C}'
      )
    mean, std = (jnp.array(v, jnp.float32)[None, None] for v in (spec.mean, spec.std))
    x = (e_BPC.astype(jnp.float32) - mean) / std
    hidden = [x.mean(1)]
    if spec.kind == 'mlp':
      x = x.reshape(B, -1)
      for l in range(len(spec.widths)):
        x = jax.nn.relu(self.blocks[str(l)](x, dtype))
        hidden.append(x)
    else:
      x = self.stem(x.reshape(B, H, W, C), 1, dtype)
      x = jax.nn.relu(self.stem_norm(x, dtype))
      for l in range(len(spec.widths)):
        x = self.blocks[str(l)](x, dtype)
        hidden.append(x.astype(jnp.float32).mean((1, 2)))
    D = max(len(v[0]) for v in hidden)
    wide = [jnp.pad(v.astype(dtype), ((0, 0), (0, D - v.shape[1]))) for v in hidden]
    return net.Out(self.out(hidden[-1], dtype, jnp.float32), jnp.stack(wide)[:, :, None])

  def table(self) -> Array:
    """Raises ValueError: there are no words."""
    raise ValueError('a model of images has no table of word embeddings')

  def decode(self, hidden: Array) -> Array:
    """Raises ValueError: there are no words."""
    raise ValueError('a model of images has no head that decodes tokens')


def abstract(spec: Spec) -> Vision:
  """A model of shapes without numbers, to be filled from weights by net.fill."""
  return nnx.eval_shape(lambda: Vision(spec, jax.random.key(0)))
