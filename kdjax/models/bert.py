"""One encoder for BERT, RoBERTa, DistilBERT and ELECTRA (Devlin et al. 2018, arXiv:1810.04805).

The families differ by the fields of families.Spec. Modules hold nnx.Param and nothing else:
dropout keys are arguments, tied weights are one attribute used twice, hidden states are returned.

Shapes: B batch, L length, V vocabulary, E embedding width, D width, H heads, K head width,
N layers, C classes. Parameters are float32; they are cast to the compute dtype where they are
used. Layer-norm statistics, the softmax and the logits are float32 whatever that dtype is.
"""

import functools
import math
from collections.abc import Callable

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


def _split(key: Array | None, n: int):
  return [None] * n if key is None else jax.random.split(key, n)


class Dense(nnx.Module):
  """x [..., I] -> x @ kernel [I, O] + bias [O], in the given dtype."""

  def __init__(self, ins: int, outs: int, std: float, key: Array):
    self.kernel = nnx.Param(std * jax.random.normal(key, (ins, outs), jnp.float32))
    self.bias = nnx.Param(jnp.zeros(outs, jnp.float32))

  def __call__(self, x: Array, dtype, out_dtype=None) -> Array:
    """out_dtype: of the accumulator and the result, where it is wider than dtype."""
    out_dtype = out_dtype or dtype
    kernel = self.kernel[...]
    if kernel.dtype != dtype:  # a quantised one (exports) says what it stands for, and is not cast
      kernel = kernel.astype(dtype)
    y = flat_dot(x.astype(dtype), kernel, out_dtype)
    return y + jax.lax.broadcast_to_rank(self.bias[...].astype(out_dtype), y.ndim)


class Norm(nnx.Module):
  """Layer norm over the last axis; statistics in float32, result in the given dtype."""

  def __init__(self, width: int):
    self.scale = nnx.Param(jnp.ones(width, jnp.float32))
    self.bias = nnx.Param(jnp.zeros(width, jnp.float32))

  def __call__(self, x: Array, eps: float, dtype) -> Array:
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)
    scale, bias = (jax.lax.broadcast_to_rank(p[...], x.ndim) for p in (self.scale, self.bias))
    return (x * scale + bias).astype(dtype)


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
    self.position = Table(spec.positions, width, std, k_position)
    if spec.types:
      self.type = Table(spec.types, width, std, k_type)
    self.norm = Norm(width)
    if width != spec.width:
      self.project = Dense(width, spec.width, std, k_project)

  def __call__(self, e_BLE: Array, mask: Array, segments: Array, key: Array | None) -> Array:
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    L = e_BLE.shape[1]
    if spec.max_length < L:
      raise ValueError(
        f'length {L} exceeds {spec.max_length}, the positions of this {spec.family} model '
        f'(a table of {spec.positions} rows)'
      )
    x = e_BLE.astype(jnp.float32)
    if spec.position_offset is None:
      x = x + self.position.table[:L][None]
    else:
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

  def __call__(self, x_BLD: Array, mask: Array, key: Array | None) -> Array:
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    k_attention, k_mix, k_ffn = _split(key, 3)
    q, k, v = (
      dense(x_BLD, dtype).reshape(*x_BLD.shape[:2], spec.heads, -1)
      for dense in (self.query, self.key, self.value)
    )
    a_BLD = attend(spec, q, k, v, mask, k_attention).reshape(x_BLD.shape)
    a_BLD = drop(self.mix(a_BLD, dtype), spec.mix_dropout, k_mix)
    x_BLD = self.mix_norm(a_BLD + x_BLD, spec.eps, dtype)
    y_BLD = self.down(activation(spec.activation)(self.up(x_BLD, dtype)), dtype)
    return self.norm(drop(y_BLD, spec.dropout, k_ffn) + x_BLD, spec.eps, dtype)


def attend(
  spec: families.Spec, q_BLHK: Array, k_BLHK: Array, v_BLHK: Array, mask: Array, key: Array | None
) -> Array:
  """Attention over the tokens where mask bool[B, L] holds -> [B, L, H, K].

  A row whose mask is all false attends evenly and stays finite. spec.attention: 'einsum' is the
  lines below, which take bfloat16 under strict promotion, vmap and second derivatives;
  'xla' and 'cudnn' are jax.nn.dot_product_attention. Dropout of the probabilities needs them in
  hand: it takes the einsum path whatever spec.attention says.
  """
  mask_B11L = mask[:, None, None, :]
  if spec.attention in ('xla', 'cudnn') and (key is None or not spec.attention_dropout):
    if spec.attention == 'cudnn':  # its mask may be one for all heads, but not for all queries
      B, L = mask.shape
      mask_B11L = jnp.broadcast_to(mask_B11L, (B, 1, L, L))
    return jax.nn.dot_product_attention(
      q_BLHK, k_BLHK, v_BLHK, mask=mask_B11L, implementation=spec.attention
    )
  score_BHLM = jnp.einsum('BLHK,BMHK->BHLM', q_BLHK, k_BLHK, preferred_element_type=jnp.float32)
  score_BHLM = score_BHLM / math.sqrt(q_BLHK.shape[-1])
  # The lowest finite number, not -inf: minus infinity in every column would give nan.
  score_BHLM = jnp.where(mask_B11L, score_BHLM, jnp.finfo(jnp.float32).min)
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

  def __call__(self, x_BLD: Array, key: Array | None) -> Array:
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    k_in, k_out = _split(key, 2)
    x_BD = x_BLD[:, 0]
    if spec.head_drops_input:
      x_BD = drop(x_BD, spec.head_dropout, k_in)
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
    self.dense = Dense(spec.width, spec.embed_width, spec.initializer_range, key)
    self.norm = Norm(spec.embed_width)
    self.out = Bias(spec.vocab)

  def __call__(self, x: Array, table_VE: Array) -> Array:
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    x = activation(spec.head_activation)(self.dense(x, dtype))
    x = self.norm(x, spec.eps, dtype)
    logits = flat_dot(x, table_VE.astype(dtype).T, jnp.float32)
    return logits + jax.lax.broadcast_to_rank(self.out.bias[...], logits.ndim)


def make_head(spec: families.Spec, key: Array) -> Classifier | MaskedLM:
  """The head that the spec names, with random weights."""
  return (MaskedLM if spec.head == 'mlm' else Classifier)(spec, key)


class Encoder(nnx.Module):
  """The model: embed, encode, table (see net.Net), and decode for a masked-LM head."""

  def __init__(self, spec: families.Spec, key: Array):
    """Normal(0, initializer_range) weights, zero biases, layer norms at one."""
    k_embeddings, k_layers, k_head = jax.random.split(key, 3)
    activation(spec.activation), activation(spec.head_activation)  # fail now, not in a trace
    self.spec = spec
    self.embeddings = Embeddings(spec, k_embeddings)
    self.layers = nnx.Dict(
      {str(l): Layer(spec, k) for l, k in enumerate(jax.random.split(k_layers, spec.layers))}
    )
    self.head = make_head(spec, k_head)

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
    k_embeddings, k_head, *k_layers = _split(key, 2 + self.spec.layers)
    x_BLD = self.embeddings(e_BLE, mask, segments, k_embeddings)
    hidden = [x_BLD]
    for l, k_layer in enumerate(k_layers):
      block = rematerialised(self.layers[str(l)], self.spec.remat)
      hidden.append(block(hidden[-1], mask, k_layer))
    if self.spec.head == 'mlm':
      logits = self.decode(hidden[-1])
    else:
      logits = self.head(hidden[-1], k_head)
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


def abstract(spec: families.Spec) -> Encoder:
  """An Encoder of shapes without numbers, to be filled from weights by net.fill."""
  return nnx.eval_shape(lambda: Encoder(spec, jax.random.key(0)))
