"""What differs between BERT, RoBERTa, DistilBERT and ELECTRA: data, not classes.

Sources: the papers (arXiv:1810.04805, 1907.11692, 1910.01108, 2003.10555) and the behaviour of
transformers' PyTorch models, against which tests/models/ holds every hidden state.
"""

import dataclasses
from typing import Any

from kdjax import quote

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
    inner width of the feed-forward block, rows of the position table.
  types: rows of the token-type table; 0 where the family has none.
  eps: of every layer norm.
  dropout: rate after the embeddings and after the feed-forward block; attention_dropout: of the
    attention probabilities; mix_dropout: after the attention's output projection; head_dropout:
    before the last projection of the classifier.
  head_drops_input: the classifier drops its input too (RoBERTa, ELECTRA).
  position_offset: None: positions are 0, 1, ...; p: they count the real tokens from p + 1, and
    padding sits at p (RoBERTa, whose p is the id of the padding token).
  head: 'classify' or 'mlm'; head_activation: the one inside it.
  dtype: of the computation, 'float32' or 'bfloat16'; parameters are float32 always.
  attention: 'einsum': written out; 'xla' or 'cudnn': jax.nn.dot_product_attention.
  remat: what the backward pass computes again in each layer: nothing; 'dots': all but the matrix
    products with parameters, which it keeps; 'full': the layer, of which it keeps the input.
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
  head_drops_input: bool
  pad_id: int
  position_offset: int | None
  initializer_range: float
  head: str = 'classify'
  dtype: str = 'float32'
  attention: str = 'einsum'
  remat: str = 'none'

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

  @property
  def max_length(self) -> int:
    """The longest sequence that the position table can number."""
    return self.positions - (0 if self.position_offset is None else self.position_offset + 1)


@dataclasses.dataclass(frozen=True)
class Family:
  """One family's table.

  prefix: of the encoder's weights in a checkpoint; classes: transformers' class by head.
  sizes: Spec field -> attribute of the config.
  names: our module path -> transformers' module, without the prefix; '*' is the layer number.
  heads: by head, the same for modules of the head, written in full: those under the prefix
    belong to the pretrained encoder (BERT's pooler).
  extras: by head, beginnings of names (without the prefix) that a checkpoint may hold and this
    head has no use for: other heads, buffers.
  """

  prefix: str
  classes: dict[str, str]
  sizes: dict[str, str]
  names: dict[str, str]
  heads: dict[str, dict[str, str]]
  extras: dict[str, tuple[str, ...]]
  head_activation: str
  mlm_activation: str | None  # None: the encoder's
  head_drops_input: bool
  offset_positions: bool = False


_SIZES = dict(
  vocab='vocab_size',
  width='hidden_size',
  embed_width='hidden_size',
  layers='num_hidden_layers',
  heads='num_attention_heads',
  ffn='intermediate_size',
  positions='max_position_embeddings',
  types='type_vocab_size',
  eps='layer_norm_eps',
  activation='hidden_act',
  dropout='hidden_dropout_prob',
  attention_dropout='attention_probs_dropout_prob',
  mix_dropout='hidden_dropout_prob',
  head_dropout='classifier_dropout',
)
_EMBEDDINGS = {
  'embeddings/word': 'embeddings.word_embeddings',
  'embeddings/position': 'embeddings.position_embeddings',
  'embeddings/type': 'embeddings.token_type_embeddings',
  'embeddings/norm': 'embeddings.LayerNorm',
}
_LAYER = {
  'layers/*/query': 'encoder.layer.*.attention.self.query',
  'layers/*/key': 'encoder.layer.*.attention.self.key',
  'layers/*/value': 'encoder.layer.*.attention.self.value',
  'layers/*/mix': 'encoder.layer.*.attention.output.dense',
  'layers/*/mix_norm': 'encoder.layer.*.attention.output.LayerNorm',
  'layers/*/up': 'encoder.layer.*.intermediate.dense',
  'layers/*/down': 'encoder.layer.*.output.dense',
  'layers/*/norm': 'encoder.layer.*.output.LayerNorm',
}
_BUFFERS = ('embeddings.position_ids', 'embeddings.token_type_ids')
_QA = ('qa_outputs.',)
_CLASSIFY_NAMES = {'head/dense': 'classifier.dense', 'head/out': 'classifier.out_proj'}

_BERT = Family(
  prefix='bert',
  classes=dict(classify='BertForSequenceClassification', mlm='BertForMaskedLM'),
  sizes=_SIZES,
  names=_EMBEDDINGS | _LAYER,
  heads=dict(
    classify={'head/dense': 'bert.pooler.dense', 'head/out': 'classifier'},
    mlm={
      'head/dense': 'cls.predictions.transform.dense',
      'head/norm': 'cls.predictions.transform.LayerNorm',
      'head/out': 'cls.predictions',
    },
  ),
  extras=dict(
    classify=(*_BUFFERS, *_QA, 'cls.'),
    mlm=(*_BUFFERS, *_QA, 'cls.predictions.decoder.', 'cls.seq_', 'pooler.', 'classifier.'),
  ),
  head_activation='tanh',
  mlm_activation=None,
  head_drops_input=False,
)
_ROBERTA = Family(
  prefix='roberta',
  classes=dict(classify='RobertaForSequenceClassification', mlm='RobertaForMaskedLM'),
  sizes=_SIZES,
  names=_EMBEDDINGS | _LAYER,
  heads=dict(
    classify=_CLASSIFY_NAMES,
    mlm={
      'head/dense': 'lm_head.dense',
      'head/norm': 'lm_head.layer_norm',
      'head/out': 'lm_head',
    },
  ),
  extras=dict(
    classify=(*_BUFFERS, *_QA, 'lm_head.', 'pooler.'),
    mlm=(*_BUFFERS, *_QA, 'lm_head.decoder.', 'pooler.', 'classifier.'),
  ),
  head_activation='tanh',
  mlm_activation='gelu',
  head_drops_input=True,
  offset_positions=True,
)
_DISTILBERT = Family(
  prefix='distilbert',
  classes=dict(classify='DistilBertForSequenceClassification', mlm='DistilBertForMaskedLM'),
  sizes=dict(
    vocab='vocab_size',
    width='dim',
    embed_width='dim',
    layers='n_layers',
    heads='n_heads',
    ffn='hidden_dim',
    positions='max_position_embeddings',
    activation='activation',
    dropout='dropout',
    attention_dropout='attention_dropout',
    head_dropout='seq_classif_dropout',
  ),
  names={
    'embeddings/word': 'embeddings.word_embeddings',
    'embeddings/position': 'embeddings.position_embeddings',
    'embeddings/norm': 'embeddings.LayerNorm',
    'layers/*/query': 'transformer.layer.*.attention.q_lin',
    'layers/*/key': 'transformer.layer.*.attention.k_lin',
    'layers/*/value': 'transformer.layer.*.attention.v_lin',
    'layers/*/mix': 'transformer.layer.*.attention.out_lin',
    'layers/*/mix_norm': 'transformer.layer.*.sa_layer_norm',
    'layers/*/up': 'transformer.layer.*.ffn.lin1',
    'layers/*/down': 'transformer.layer.*.ffn.lin2',
    'layers/*/norm': 'transformer.layer.*.output_layer_norm',
  },
  heads=dict(
    classify={'head/dense': 'pre_classifier', 'head/out': 'classifier'},
    mlm={
      'head/dense': 'vocab_transform',
      'head/norm': 'vocab_layer_norm',
      'head/out': 'vocab_projector',
    },
  ),
  extras=dict(
    classify=(*_BUFFERS, *_QA, 'vocab_'),
    mlm=(*_BUFFERS, *_QA, 'vocab_projector.weight', 'pre_classifier.', 'classifier.'),
  ),
  head_activation='relu',
  mlm_activation=None,
  head_drops_input=False,
)
_ELECTRA = Family(
  prefix='electra',
  classes=dict(classify='ElectraForSequenceClassification', mlm='ElectraForMaskedLM'),
  sizes=_SIZES | dict(embed_width='embedding_size'),
  names=_EMBEDDINGS | {'embeddings/project': 'embeddings_project'} | _LAYER,
  heads=dict(
    classify=_CLASSIFY_NAMES,
    mlm={
      'head/dense': 'generator_predictions.dense',
      'head/norm': 'generator_predictions.LayerNorm',
      'head/out': 'generator_lm_head',
    },
  ),
  extras=dict(
    classify=(*_BUFFERS, *_QA, 'generator_', 'discriminator_predictions.'),
    mlm=(*_BUFFERS, *_QA, 'generator_lm_head.weight', 'discriminator_', 'classifier.'),
  ),
  head_activation='gelu',
  mlm_activation='gelu',
  head_drops_input=True,
)

FAMILIES: dict[str, Family] = {
  'bert': _BERT,
  'roberta': _ROBERTA,
  'xlm-roberta': dataclasses.replace(
    _ROBERTA,
    classes=dict(classify='XLMRobertaForSequenceClassification', mlm='XLMRobertaForMaskedLM'),
  ),
  'distilbert': _DISTILBERT,
  'electra': _ELECTRA,
}


def get(model_type: str | None) -> Family:
  """The table of a config's model_type; ValueError that lists those there are."""
  if not isinstance(model_type, str) or model_type not in FAMILIES:
    raise ValueError(
      f'model_type {quote.value(model_type)} is not supported; there are {list(FAMILIES)}'
    )
  return FAMILIES[model_type]


def spec(config: Any, *, head: str = 'classify', **knobs: Any) -> Spec:
  """A Spec from a transformers config object; knobs: dtype, attention, remat.

  Raises ValueError for a family, a head or a variant that is not here (decoders, relative
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
  fields |= {field: getattr(config, name) for field, name in family.sizes.items()}
  if fields['head_dropout'] is None:
    fields['head_dropout'] = fields['dropout']
  head_activation = family.head_activation
  if head == 'mlm':
    head_activation = family.mlm_activation or fields['activation']
  for field, (low, high) in _LIMITS.items():
    _between(family.sizes.get(field, field), fields[field], low, high)
  _between('initializer_range', config.initializer_range, 0.0, 100.0)
  _between('num_labels', config.num_labels, 1, LARGEST_HEAD)
  pad_id = config.pad_token_id
  if family.offset_positions and pad_id is None:
    raise ValueError(f'{config.model_type} counts positions from pad_token_id, which is None')
  if family.offset_positions:
    _between('pad_token_id', pad_id, 0, fields['positions'] - 2)
  size = _size(**fields)
  if size > _LARGEST:
    raise ValueError(f'a model of {size:,} parameters; up to {_LARGEST:,} are read')
  return Spec(
    family=config.model_type,
    num_labels=config.num_labels,
    head_activation=head_activation,
    head_drops_input=family.head_drops_input,
    pad_id=0 if pad_id is None else pad_id,
    position_offset=pad_id if family.offset_positions else None,
    initializer_range=config.initializer_range,
    head=head,
    **fields,
    **knobs,
  )


def _between(name: str, value: Any, low: float, high: float) -> None:
  """ValueError unless it is a number of low's type in these bounds."""
  kinds = (int,) if isinstance(low, int) else (int, float)
  if type(value) not in kinds or not low <= value <= high:  # nor NaN
    kind = 'an integer' if isinstance(low, int) else 'a number'
    raise ValueError(f'{name} is {quote.value(value)}; it must be {kind} from {low} to {high}')


def _size(vocab, positions, types, embed_width, layers, width, ffn, **rest) -> int:
  """Parameters in the large matrices."""
  return (vocab + positions + types) * embed_width + layers * width * (4 * width + 2 * ffn)


def weight(model_type: str, head: str, path: str) -> tuple[str, bool]:
  """Our parameter path 'layers/0/query/kernel' -> (transformers' name, whether it is transposed).

  Names of the encoder carry the family's prefix.
  """
  family = get(model_type)
  module, leaf = path.rsplit('/', 1)
  parts = module.split('/')
  leaf_name = 'bias' if leaf == 'bias' else 'weight'  # kernel, scale and table are their weight
  if parts[0] == 'head':
    return f'{family.heads[head][module]}.{leaf_name}', leaf == 'kernel'
  number = parts[1] if parts[0] == 'layers' else ''
  pattern = '/'.join(('layers', '*', *parts[2:])) if number else module
  name = family.names[pattern].replace('*', number)
  return f'{family.prefix}.{name}.{leaf_name}', leaf == 'kernel'
