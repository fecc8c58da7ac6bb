"""One encoder for BERT, RoBERTa, DistilBERT and ELECTRA (Devlin et al. 2018, arXiv:1810.04805).

The families differ by the fields of families.Spec. albert.py, modernbert.py and deberta.py build
theirs from the same parts, to the same interface. Modules hold nnx.Param and nothing else:
dropout keys are arguments, tied weights are one attribute used twice, hidden states are returned.

Shapes: B batch, L length, V vocabulary, E embedding width, D width, H heads, K head width,
N layers, C classes. Parameters are float32; they are cast to the compute dtype where they are
used. Layer-norm statistics, the softmax and the logits are float32 whatever that dtype is.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kdjax import net, quote
from kdjax.models import families

Array = jax.Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'gelu': functools.partial(jax.nn.gelu, approximate=False),  # erf, as in BERT
  'gelu_python': functools.partial(jax.nn.gelu, approximate=False),
  'gelu_new': functools.partial(jax.nn.gelu, approximate=True),
  'gelu_fast': functools.partial(jax.nn.gelu, approximate=True),
  'gelu_pytorch_tanh': functools.partial(jax.nn.gelu, approximate=True),
  'relu': jax.nn.relu,
  'silu': jax.nn.silu,
  'swish': jax.nn.silu,
  'tanh': jnp.tanh,
}


def activation(name: str) -> Callable[[Array], Array]:
  """transformers' name of an activation -> the function; ValueError that lists them."""
  if name not in ACTIVATIONS:
    raise ValueError(
      f'activation {quote.value(name)} is not supported; there are {list(ACTIVATIONS)}'
    )
  return ACTIVATIONS[name]


def drop(x: Array, rate: float, key: Array | None) -> Array:
  """Inverted dropout; no key, no dropout. Any shape and float dtype; the rate to 2^-16.

  16 bits decide on each number: hashes are what dropout costs, and one of 32 bits is for two.
  """
  if key is None or not rate:
    return x
  size = x.shape[-1]
  pair = jax.random.bits(key, (*x.shape[:-1], -(-size // 2)), jnp.uint32)
  bits = jnp.concatenate([pair >> 16, pair & 0xFFFF], -1)[..., :size]
  kept = round((1 - rate) * 2**16)
  return jnp.where(bits < kept, x * (2**16 / kept), 0)


def flat_dot(x: Array, kernel: Array, dtype) -> Array:
  """x [..., I] @ kernel [I, O] -> [..., O] of dtype.

  As one matrix of rows: a gradient that is contracted over B and L as two axes costs a CPU a
  transposed copy first.
  """
  rows = x.reshape(-1, x.shape[-1])
  return jnp.dot(rows, kernel, preferred_element_type=dtype).reshape(*x.shape[:-1], -1)


def split(key: Array | None, n: int) -> Any:
  """n keys; of no key, n times none."""
  return [None] * n if key is None else jax.random.split(key, n)


class Dense(nnx.Module):
  """x [..., I] -> x @ kernel [I, O] + bias [O], if it has one, in the given dtype."""

  def __init__(self, ins: int, outs: int, std: float, key: Array, bias: bool = True):
    self.kernel = nnx.Param(std * jax.random.normal(key, (ins, outs), jnp.float32))
    if bias:
      self.bias = nnx.Param(jnp.zeros(outs, jnp.float32))

  def __call__(self, x: Array, dtype, out_dtype=None) -> Array:
    """out_dtype: of the accumulator and the result, where it is wider than dtype."""
    out_dtype = out_dtype or dtype
    kernel = self.kernel[...]
    if kernel.dtype != dtype:  # a quantised one (exports) says what it stands for, and is not cast
      kernel = kernel.astype(dtype)
    y = flat_dot(x.astype(dtype), kernel, out_dtype)
    if not hasattr(self, 'bias'):
      return y
    return y + jax.lax.broadcast_to_rank(self.bias[...].astype(out_dtype), y.ndim)


class Norm(nnx.Module):
  """Layer norm over the last axis; statistics in float32, result in the given dtype."""

  def __init__(self, width: int, bias: bool = True):
    self.scale = nnx.Param(jnp.ones(width, jnp.float32))
    if bias:
      self.bias = nnx.Param(jnp.zeros(width, jnp.float32))

  def __call__(self, x: Array, eps: float, dtype) -> Array:
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)
    x = x * jax.lax.broadcast_to_rank(self.scale[...], x.ndim)
    if hasattr(self, 'bias'):
      x = x + jax.lax.broadcast_to_rank(self.bias[...], x.ndim)
    return x.astype(dtype)


class Table(nnx.Module):
  """An embedding table f32[rows, width]."""

  def __init__(self, rows: int, width: int, std: float, key: Array):
    self.table = nnx.Param(std * jax.random.normal(key, (rows, width), jnp.float32))


class Embeddings(nnx.Module):
  """Word embeddings + positions + token types, layer norm, ELECTRA's projection to D."""

  def __init__(self, spec: families.Spec, key: Array):
    k_word, k_position, k_type, k_project = jax.random.split(key, 4)
    width, std = spec.embed_width, spec.initializer_range
    self.spec = spec
    self.word = Table(spec.vocab, width, std, k_word)
    if spec.absolute:
      self.position = Table(spec.positions, width, std, k_position)
    if spec.types:
      self.type = Table(spec.types, width, std, k_type)
    self.norm = Norm(width, spec.norm_bias)
    if width != spec.width:
      self.project = Dense(width, spec.width, std, k_project)

  def __call__(self, e_BLE: Array, mask: Array, segments: Array, key: Array | None) -> Array:
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    L = e_BLE.shape[1]
    if spec.max_length < L:
      raise ValueError(
        f'length {L} exceeds {spec.max_length}, the positions of this {spec.family} model'
        + f' (a table of {spec.positions} rows)' * spec.absolute
      )
    x = e_BLE.astype(jnp.float32)
    if spec.absolute and spec.position_offset is None:
      x = x + self.position.table[:L][None]
    elif spec.absolute:
      # Real tokens count from offset + 1, padding sits at offset, wherever the padding is.
      real = mask.astype(jnp.int32)
      x = x + self.position.table[...][jnp.cumsum(real, axis=1) * real + spec.position_offset]
    if spec.types == 1:
      x = x + self.type.table[...][None]  # RoBERTa: one row, whatever the segments say
    elif spec.types:
      x = x + self.type.table[...][segments]
    x = drop(self.norm(x, spec.eps, dtype), spec.dropout, key)
    return self.project(x, dtype) if spec.embed_width != spec.width else x


class Layer(nnx.Module):
  """Post-norm transformer block: attention and feed-forward, each added, then normed."""

  def __init__(self, spec: families.Spec, key: Array):
    keys = jax.random.split(key, 6)
    width, std = spec.width, spec.initializer_range
    self.spec = spec
    self.query = Dense(width, width, std, keys[0])
    self.key = Dense(width, width, std, keys[1])
    self.value = Dense(width, width, std, keys[2])
    self.mix = Dense(width, width, std, keys[3])
    self.mix_norm = Norm(width)
    self.up = Dense(width, spec.ffn, std, keys[4])
    self.down = Dense(spec.ffn, width, std, keys[5])
    self.norm = Norm(width)

  def __call__(self, x_BLD: Array, mask: Array, key: Array | None, common: Any) -> Array:
    """common: what Encoder.common has computed for all layers."""
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    k_attention, k_mix, k_ffn = split(key, 3)
    q, k, v = (
      dense(x_BLD, dtype).reshape(*x_BLD.shape[:2], spec.heads, -1)
      for dense in (self.query, self.key, self.value)
    )
    a_BLD = self.attend(q, k, v, mask, k_attention, common).reshape(x_BLD.shape)
    a_BLD = drop(self.mix(a_BLD, dtype), spec.mix_dropout, k_mix)
    x_BLD = self.mix_norm(a_BLD + x_BLD, spec.eps, dtype)
    y_BLD = self.down(activation(spec.activation)(self.up(x_BLD, dtype)), dtype)
    rate = spec.dropout if spec.ffn_dropout is None else spec.ffn_dropout
    return self.norm(drop(y_BLD, rate, k_ffn) + x_BLD, spec.eps, dtype)

  def attend(self, q_BLHK, k_BLHK, v_BLHK, mask: Array, key: Array | None, common: Any) -> Array:
    """Queries, keys and values -> [B, L, H, K]."""
    return attend(self.spec, q_BLHK, k_BLHK, v_BLHK, mask, key)


def attend(
  spec: families.Spec,
  q_BLHK: Array,
  k_BLHK: Array,
  v_BLHK: Array,
  mask: Array,
  key: Array | None,
  *,
  near_LM: Array | None = None,
  bias_BHLM: Array | None = None,
  terms: int = 1,
) -> Array:
  """Attention over the tokens where mask bool[B, L] holds -> [B, L, H, K].

  near_LM: bool, which tokens M a token L may attend to. bias_BHLM: added to the products of
  queries and keys. terms: how many products of width K a score is the sum of, bias included; it is
  divided by sqrt(K terms).

  A row whose mask is all false attends evenly and stays finite. spec.attention: 'einsum' is the
  lines below, which take bfloat16 under strict promotion, vmap and second derivatives;
  'xla' and 'cudnn' are jax.nn.dot_product_attention. Dropout of the probabilities needs them in
  hand: it takes the einsum path whatever spec.attention says.
  """
  mask_B1LM = mask[:, None, None, :]
  if near_LM is not None:
    mask_B1LM = mask_B1LM & near_LM[None, None]
  width = terms * q_BLHK.shape[-1]
  if spec.attention in ('xla', 'cudnn') and (key is None or not spec.attention_dropout):
    if spec.attention == 'cudnn':  # its mask may be one for all heads, but not for all queries
      B, L = mask.shape
      mask_B1LM = jnp.broadcast_to(mask_B1LM, (B, 1, L, L))
    if bias_BHLM is not None:
      bias_BHLM = (bias_BHLM / math.sqrt(width)).astype(q_BLHK.dtype)
    return jax.nn.dot_product_attention(
      q_BLHK, k_BLHK, v_BLHK, bias_BHLM, mask_B1LM, scale=1 / math.sqrt(width),
      implementation=spec.attention,
    )  # fmt: skip
  score_BHLM = jnp.einsum('BLHK,BMHK->BHLM', q_BLHK, k_BLHK, preferred_element_type=jnp.float32)
  if bias_BHLM is not None:
    score_BHLM = score_BHLM + bias_BHLM
  score_BHLM = score_BHLM / math.sqrt(width)
  # The lowest finite number, not -inf: minus infinity in every column would give nan.
  score_BHLM = jnp.where(mask_B1LM, score_BHLM, jnp.finfo(jnp.float32).min)
  p_BHLM = drop(jax.nn.softmax(score_BHLM, axis=-1), spec.attention_dropout, key)
  return jnp.einsum('BHLM,BMHK->BLHK', p_BHLM.astype(v_BLHK.dtype), v_BLHK)


def rematerialised(layer: Callable[..., Array], remat: str) -> Callable[..., Array]:
  """The layer, of which the backward pass computes again what spec.remat says."""
  if remat == 'none':
    return layer
  kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == 'dots' else None
  return jax.checkpoint(lambda *args: layer(*args), policy=kept)


class Classifier(nnx.Module):
  """First token -> dense, activation -> logits f32[B, C]."""

  def __init__(self, spec: families.Spec, key: Array):
    k_dense, k_out = jax.random.split(key)
    self.spec = spec
    self.dense = Dense(spec.width, spec.width, spec.initializer_range, k_dense)
    self.out = Dense(spec.width, spec.num_labels, spec.initializer_range, k_out)

  def __call__(self, x_BLD: Array, mask: Array, key: Array | None) -> Array:
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    k_in, k_out = split(key, 2)
    x_BD = drop(x_BLD[:, 0], spec.head_input_dropout, k_in)
    x_BD = activation(spec.head_activation)(self.dense(x_BD, dtype))
    return self.out(drop(x_BD, spec.head_dropout, k_out), dtype, jnp.float32)


class Bias(nnx.Module):
  """A bias f32[width], zero at first."""

  def __init__(self, width: int):
    self.bias = nnx.Param(jnp.zeros(width, jnp.float32))


class MaskedLM(nnx.Module):
  """Dense D -> E, activation, layer norm, then the word table once more, and a bias [V]."""

  def __init__(self, spec: families.Spec, key: Array):
    self.spec = spec
    std = spec.initializer_range
    self.dense = Dense(spec.width, spec.embed_width, std, key, spec.head_bias)
    self.norm = Norm(spec.embed_width, spec.norm_bias)
    self.out = Bias(spec.vocab)

  def __call__(self, x: Array, table_VE: Array) -> Array:
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    x = activation(spec.head_activation)(self.dense(x, dtype))
    x = self.norm(x, spec.eps, dtype)
    logits = flat_dot(x, table_VE.astype(dtype).T, jnp.float32)
    return logits + jax.lax.broadcast_to_rank(self.out.bias[...], logits.ndim)


class Encoder(nnx.Module):
  """The model: embed, encode, table (see net.Net), and decode for a masked-LM head.

  Another family's encoder has other blocks, or another classifier, or something around the blocks.
  """

  classifier: type[nnx.Module] = Classifier

  free_length = True  # its program may have a symbol in the place of a length: formats

  def __init__(self, spec: families.Spec, key: Array):
    """Normal(0, initializer_range) weights, zero biases, layer norms at one."""
    k_embeddings, k_layers, k_head = jax.random.split(key, 3)
    activation(spec.activation), activation(spec.head_activation)  # fail now, not in a trace
    self.spec = spec
    self.embeddings = Embeddings(spec, k_embeddings)
    keys = jax.random.split(k_layers, spec.layers)[: self.blocks(spec)]
    self.layers = nnx.Dict({str(l): self.make_layer(spec, l, k) for l, k in enumerate(keys)})
    self.head = self.make_head(spec, k_head)

  @staticmethod
  def blocks(spec: families.Spec) -> int:
    """How many blocks there are: one a layer."""
    return spec.layers

  def block(self, l: int) -> nnx.Module:
    """The block of layer l."""
    return self.layers[str(l)]

  @staticmethod
  def make_layer(spec: families.Spec, l: int, key: Array) -> nnx.Module:
    """Block l, with random weights."""
    return Layer(spec, key)

  @classmethod
  def make_head(cls, spec: families.Spec, key: Array) -> nnx.Module:
    """The head that the spec names, with random weights."""
    return (MaskedLM if spec.head == 'mlm' else cls.classifier)(spec, key)

  @staticmethod
  def pick(layers: dict[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
    """Parameters of the blocks with these indices, in this order, for another encoder: copies."""
    # A copy of each: an index may be named twice, and two layers must not share a buffer.
    return {str(new): jax.tree.map(jnp.copy, layers[str(old)]) for new, old in enumerate(chosen)}

  def common(self, length: int) -> Any:
    """What all blocks are given of texts of this length."""
    return None

  def finish(self, x_BLD: Array) -> Array:
    """What the last block returns -> the last hidden states."""
    return x_BLD

  def embed(self, tokens: Array) -> Array:
    """ids i32[B, L], or a distribution over tokens f32[B, L, V] -> word embeddings f32[B, L, E].

    Floats are distributions, integers are ids: only the word table, so that what a method adds
    or mixes goes through positions, types and the norm like any word.
    """
    if jnp.issubdtype(tokens.dtype, jnp.floating):
      dtype = jnp.dtype(self.spec.dtype)
      return flat_dot(tokens.astype(dtype), self.table().astype(dtype), jnp.float32)
    return self.table()[tokens]

  def encode(self, e_BLE: Array, mask: Array, segments: Array, key: Array | None = None) -> net.Out:
    """e [B, L, E], mask bool[B, L], segments i32[B, L] -> Out; a key means dropout.

    logits: f32[B, C], or f32[B, L, V] from a masked-LM head (where the caller does not use them,
    jit removes them). hidden: [N+1, B, L, D] in the compute dtype. Raises ValueError where L
    exceeds the positions.
    """
    k_embeddings, k_head, *k_layers = split(key, 2 + self.spec.layers)
    x_BLD = self.embeddings(e_BLE, mask, segments, k_embeddings)
    hidden, common = [x_BLD], self.common(e_BLE.shape[1])
    for l, k_layer in enumerate(k_layers):
      block = rematerialised(self.block(l), self.spec.remat)
      hidden.append(block(hidden[-1], mask, k_layer, common))
    hidden[-1] = self.finish(hidden[-1])
    if self.spec.head == 'mlm':
      logits = self.decode(hidden[-1])
    else:
      logits = self.head(hidden[-1], mask, k_head)
    return net.Out(logits, jnp.stack(hidden))

  def decode(self, hidden: Array) -> Array:
    """Last hidden states [..., D] -> logits f32[..., V]: all positions, or those gathered.

    Raises ValueError on a classifier.
    """
    if self.spec.head != 'mlm':
      raise ValueError("decode needs a masked-LM head: build or load with head='mlm'")
    return self.head(hidden, self.table())

  def table(self) -> Array:
    """The word-embedding table f32[V, E]."""
    return self.embeddings.word.table[...]
