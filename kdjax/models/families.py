"""What an encoder is built from, read from a config; what differs between families is data.

Sources: the papers (arXiv:1810.04805, 1907.11692, 1909.11942, 1910.01108, 2003.10555, 2111.09543,
2412.13663) and the behaviour of transformers' PyTorch models, against which tests/models/ holds
every hidden state.
"""

import dataclasses
import re
from typing import Any, NamedTuple

from kdjax import quote
from kdjax.models import checks, deberta_config, modernbert_config, tables

FAMILIES: dict[str, tables.Family] = tables.BERT_LIKE | {
  'modernbert': modernbert_config.FAMILY,
  'deberta-v2': deberta_config.FAMILY,
}

HEADS = ('classify', 'mlm')
ATTENTION = ('einsum', 'xla', 'cudnn')
DTYPES = ('float32', 'bfloat16')
REMAT = ('none', 'dots', 'full')
LARGEST_HEAD = 1 << 20  # classes
_LARGEST = 1 << 34  # parameters; a config that asks for more is refused, not built
# Field -> what a config may say, both ends included.
_LIMITS = dict(
  vocab=(1, 1 << 31),
  width=(1, 1 << 20),
  embed_width=(1, 1 << 20),
  layers=(1, 1000),
  heads=(1, 1 << 20),
  ffn=(1, 1 << 24),
  positions=(1, 1 << 24),
  types=(0, 1 << 16),
  eps=(1e-20, 1.0),
  dropout=(0.0, 0.99),
  attention_dropout=(0.0, 0.99),
  mix_dropout=(0.0, 0.99),
  head_dropout=(0.0, 0.99),
)


@dataclasses.dataclass(frozen=True)
class Spec:
  """Everything an Encoder is built from; static and hashable.

  vocab, width, embed_width, layers, heads, ffn, positions: sizes V, D, E, N, attention heads,
    inner width of the feed-forward block, rows of the position table (where positions are relative,
    the longest sequence).
  types: rows of the token-type table; 0 where the family has none.
  eps: of every layer norm.
  dropout: rate after the embeddings, and where ffn_dropout is None after the feed-forward block;
    attention_dropout: of the attention probabilities; mix_dropout: after the attention's output
    projection; head_dropout: before the last projection of the classifier; head_input_dropout: of
    the classifier's input.
  position_offset: None: positions are 0, 1, ...; p: they count the real tokens from p + 1, and
    padding sits at p (RoBERTa, whose p is the id of the padding token).
  absolute: word embeddings get those positions added.
  norm_bias, head_bias: the layer norms, and the dense layer of the head, have biases.
  head: 'classify' or 'mlm'; head_activation: the one inside it.
  dtype: of the computation, 'float32' or 'bfloat16'; parameters are float32 always.
  attention: 'einsum': written out; 'xla' or 'cudnn': jax.nn.dot_product_attention.
  remat: what the backward pass computes again in each layer: nothing; 'dots': all but the matrix
    products with parameters, which it keeps; 'full': the layer, of which it keeps the input.
  own: what the family alone has: modernbert_config.Own, deberta_config.Own.
  """

  family: str
  vocab: int
  width: int
  embed_width: int
  layers: int
  heads: int
  ffn: int
  positions: int
  types: int
  num_labels: int
  eps: float
  activation: str
  head_activation: str
  dropout: float
  attention_dropout: float
  mix_dropout: float
  head_dropout: float
  head_input_dropout: float
  pad_id: int
  position_offset: int | None
  initializer_range: float
  ffn_dropout: float | None = None
  head: str = 'classify'
  dtype: str = 'float32'
  attention: str = 'einsum'
  remat: str = 'none'
  absolute: bool = True
  norm_bias: bool = True
  head_bias: bool = True
  own: modernbert_config.Own | deberta_config.Own | None = None

  def __post_init__(self):
    for name, value, known in (
      ('head', self.head, HEADS),
      ('dtype', self.dtype, DTYPES),
      ('attention', self.attention, ATTENTION),
      ('remat', self.remat, REMAT),
    ):
      if value not in known:
        raise ValueError(f'{name} {value!r} is not one of {known}')
    if self.width % self.heads:
      raise ValueError(f'width {self.width} is not divisible by {self.heads} heads')
    if self.attention == 'cudnn' and self.dtype == 'float32':
      raise ValueError("attention 'cudnn' computes in bfloat16 only: set dtype='bfloat16'")
    if self.attention == 'cudnn' and isinstance(self.own, deberta_config.Own):
      raise ValueError(
        "attention 'cudnn' is not supported with DeBERTa's relative positions: 'einsum' or 'xla'"
      )

  @property
  def max_length(self) -> int:
    """The longest sequence that the positions can number."""
    return self.positions - (0 if self.position_offset is None else self.position_offset + 1)


def get(model_type: str | None) -> tables.Family:
  """The table of a config's model_type; ValueError that lists those there are."""
  if not isinstance(model_type, str) or model_type not in FAMILIES:
    raise ValueError(
      f'model_type {quote.value(model_type)} is not supported; there are {list(FAMILIES)}'
    )
  return FAMILIES[model_type]


def spec(config: Any, *, head: str = 'classify', **knobs: Any) -> Spec:
  """A Spec from a transformers config object; knobs: dtype, attention, remat.

  Raises ValueError for a family, a head or a variant that is not here (decoders, BERT's relative
  positions, an untied masked-LM decoder).
  """
  family = get(config.model_type)
  position_kind = getattr(config, 'position_embedding_type', None) or 'absolute'
  if position_kind != 'absolute':
    raise ValueError(
      f'position_embedding_type {quote.value(position_kind)}: only absolute positions'
    )
  if getattr(config, 'is_decoder', False) or getattr(config, 'add_cross_attention', False):
    raise ValueError(f'{config.model_type} as a decoder: only encoders are here')
  if head == 'mlm' and not getattr(config, 'tie_word_embeddings', True):
    raise ValueError('tie_word_embeddings=False: the masked-LM decoder here is the word table')
  # What a family has no attribute for is fixed by its definition.
  fields = dict(types=0, eps=1e-12, mix_dropout=0.0)
  fields |= {field: getattr(config, name, None) for field, name in family.sizes.items()}
  if fields['head_dropout'] is None:
    fields['head_dropout'] = fields['dropout']
  head_activation = family.head_activation
  if head == 'mlm':
    head_activation = family.mlm_activation or fields['activation']
  for field, (low, high) in _LIMITS.items():
    checks.between(family.sizes.get(field, field), fields[field], low, high)
  checks.between('initializer_range', config.initializer_range, 0.0, 100.0)
  checks.between('num_labels', config.num_labels, 1, LARGEST_HEAD)
  pad_id = config.pad_token_id
  if family.offset_positions and pad_id is None:
    raise ValueError(f'{config.model_type} counts positions from pad_token_id, which is None')
  if family.offset_positions:
    checks.between('pad_token_id', pad_id, 0, fields['positions'] - 2)
  size = _size(**fields)
  if size > _LARGEST:
    raise ValueError(f'a model of {size:,} parameters; up to {_LARGEST:,} are read')
  for name, field in family.follows.items():
    if getattr(config, name, fields[field]) != fields[field]:
      raise ValueError(
        f'{name} {quote.value(getattr(config, name))} is not supported; only '
        f'{family.sizes[field]}, {fields[field]}'
      )
  said = dict(
    family=config.model_type,
    num_labels=config.num_labels,
    head_activation=head_activation,
    head_input_dropout=fields['head_dropout'] if family.head_drops_input else 0.0,
    pad_id=0 if pad_id is None else pad_id,
    position_offset=pad_id if family.offset_positions else None,
    initializer_range=config.initializer_range,
    head=head,
  )
  more = family.more(config, head) if family.more else {}
  return Spec(**(said | fields | more), **knobs)


def _size(vocab, positions, types, embed_width, layers, width, ffn, **rest) -> int:
  """Parameters in the large matrices."""
  return (vocab + positions + types) * embed_width + layers * width * (4 * width + 2 * ffn)


class Stored(NamedTuple):
  """Where a parameter lies in a checkpoint.

  name: transformers'. transposed: a kernel, whose stored axes are the other way round. part,
  parts: it is the part-th (from 0) of so many equal ones along the stored first axis.
  """

  name: str
  transposed: bool
  part: int = 0
  parts: int = 1


def weight(model_type: str, head: str, path: str) -> Stored:
  """Our parameter path 'layers/0/query/kernel' -> where a checkpoint has it.

  Names of the encoder carry the family's prefix.
  """
  family = get(model_type)
  module, leaf = path.rsplit('/', 1)
  parts = module.split('/')
  leaf_name = 'bias' if leaf == 'bias' else 'weight'  # kernel, scale and table are their weight
  if parts[0] == 'head':
    return Stored(f'{family.heads[head][module]}.{leaf_name}', leaf == 'kernel')
  number = parts[1] if parts[0] == 'layers' else ''
  pattern = '/'.join(('layers', '*', *parts[2:])) if number else module
  name = family.names[pattern].replace('*', number)
  whole, part, of = re.fullmatch(r'([^[]+)(?:\[(\d)/(\d)\])?', name).groups()
  place = (int(part), int(of)) if part else ()
  return Stored(f'{family.prefix}.{whole}.{leaf_name}', leaf == 'kernel', *place)
