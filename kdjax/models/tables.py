"""The tables of BERT, RoBERTa, XLM-R, DistilBERT, ELECTRA, ALBERT: names of sizes and of weights.

Those of later families, which have fields of their own, are in files of their own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from kdjax.models import checks


@dataclasses.dataclass(frozen=True)
class Family:
  """One family's table.

  prefix: of the encoder's weights in a checkpoint; classes: transformers' class by head.
  sizes: Spec field -> attribute of the config.
  names: our module path -> transformers' module, without the prefix; '*' is the layer number.
  heads: by head, the same for modules of the head, written in full: those under the prefix
    belong to the pretrained encoder (BERT's pooler).
    A module whose weight is a part of a stored one says which: 'attn.Wqkv[0/3]'.
  kept: beginnings of other names of the head that come from pretraining too.
  extras: by head, beginnings of names (without the prefix) that a checkpoint may hold and this
    head has no use for: other heads, buffers.
  more: (config, head) -> fields of Spec that a table cannot say; ValueError where the config asks
    for what is not here.
  follows: attribute that a config may have -> field of Spec that it must equal.
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
  kept: tuple[str, ...] = ()
  more: Callable[[Any, str], dict[str, Any]] | None = None
  follows: dict[str, str] = dataclasses.field(default_factory=dict)


SIZES = dict(
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
EMBEDDINGS = {
  'embeddings/word': 'embeddings.word_embeddings',
  'embeddings/position': 'embeddings.position_embeddings',
  'embeddings/type': 'embeddings.token_type_embeddings',
  'embeddings/norm': 'embeddings.LayerNorm',
}
LAYER = {
  'layers/*/query': 'encoder.layer.*.attention.self.query',
  'layers/*/key': 'encoder.layer.*.attention.self.key',
  'layers/*/value': 'encoder.layer.*.attention.self.value',
  'layers/*/mix': 'encoder.layer.*.attention.output.dense',
  'layers/*/mix_norm': 'encoder.layer.*.attention.output.LayerNorm',
  'layers/*/up': 'encoder.layer.*.intermediate.dense',
  'layers/*/down': 'encoder.layer.*.output.dense',
  'layers/*/norm': 'encoder.layer.*.output.LayerNorm',
}
BUFFERS = ('embeddings.position_ids', 'embeddings.token_type_ids')
_QA = ('qa_outputs.',)
_CLASSIFY_NAMES = {'head/dense': 'classifier.dense', 'head/out': 'classifier.out_proj'}

_BERT = Family(
  prefix='bert',
  classes=dict(classify='BertForSequenceClassification', mlm='BertForMaskedLM'),
  sizes=SIZES,
  names=EMBEDDINGS | LAYER,
  heads=dict(
    classify={'head/dense': 'bert.pooler.dense', 'head/out': 'classifier'},
    mlm={
      'head/dense': 'cls.predictions.transform.dense',
      'head/norm': 'cls.predictions.transform.LayerNorm',
      'head/out': 'cls.predictions',
    },
  ),
  extras=dict(
    classify=(*BUFFERS, *_QA, 'cls.'),
    mlm=(*BUFFERS, *_QA, 'cls.predictions.decoder.', 'cls.seq_', 'pooler.', 'classifier.'),
  ),
  head_activation='tanh',
  mlm_activation=None,
  head_drops_input=False,
)
_ROBERTA = Family(
  prefix='roberta',
  classes=dict(classify='RobertaForSequenceClassification', mlm='RobertaForMaskedLM'),
  sizes=SIZES,
  names=EMBEDDINGS | LAYER,
  heads=dict(
    classify=_CLASSIFY_NAMES,
    mlm={
      'head/dense': 'lm_head.dense',
      'head/norm': 'lm_head.layer_norm',
      'head/out': 'lm_head',
    },
  ),
  extras=dict(
    classify=(*BUFFERS, *_QA, 'lm_head.', 'pooler.'),
    mlm=(*BUFFERS, *_QA, 'lm_head.decoder.', 'pooler.', 'classifier.'),
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
    classify=(*BUFFERS, *_QA, 'vocab_'),
    mlm=(*BUFFERS, *_QA, 'vocab_projector.weight', 'pre_classifier.', 'classifier.'),
  ),
  head_activation='relu',
  mlm_activation=None,
  head_drops_input=False,
)
_ELECTRA = Family(
  prefix='electra',
  classes=dict(classify='ElectraForSequenceClassification', mlm='ElectraForMaskedLM'),
  sizes=SIZES | dict(embed_width='embedding_size'),
  names=EMBEDDINGS | {'embeddings/project': 'embeddings_project'} | LAYER,
  heads=dict(
    classify=_CLASSIFY_NAMES,
    mlm={
      'head/dense': 'generator_predictions.dense',
      'head/norm': 'generator_predictions.LayerNorm',
      'head/out': 'generator_lm_head',
    },
  ),
  extras=dict(
    classify=(*BUFFERS, *_QA, 'generator_', 'discriminator_predictions.'),
    mlm=(*BUFFERS, *_QA, 'generator_lm_head.weight', 'discriminator_', 'classifier.'),
  ),
  head_activation='gelu',
  mlm_activation='gelu',
  head_drops_input=True,
)


def _albert(config: Any, head: str) -> dict[str, Any]:
  """Fields of Spec; ValueError where the config asks for what is not here."""
  for name in ('num_hidden_groups', 'inner_group_num'):
    checks.one_of(name, getattr(config, name), (1,))
  if config.embedding_size == config.hidden_size:
    raise ValueError(
      f'embedding_size is {config.embedding_size}, and so is hidden_size; the one is projected to '
      'the other, and they must differ'
    )
  return dict(ffn_dropout=0.0)


_BLOCK = 'encoder.albert_layer_groups.*.albert_layers.0.'
_ALBERT = Family(
  prefix='albert',
  classes=dict(classify='AlbertForSequenceClassification', mlm='AlbertForMaskedLM'),
  sizes=SIZES | dict(embed_width='embedding_size', head_dropout='classifier_dropout_prob'),
  names=EMBEDDINGS
  | {
    'embeddings/project': 'encoder.embedding_hidden_mapping_in',
    'layers/*/query': _BLOCK + 'attention.query',
    'layers/*/key': _BLOCK + 'attention.key',
    'layers/*/value': _BLOCK + 'attention.value',
    'layers/*/mix': _BLOCK + 'attention.dense',
    'layers/*/mix_norm': _BLOCK + 'attention.LayerNorm',
    'layers/*/up': _BLOCK + 'ffn',
    'layers/*/down': _BLOCK + 'ffn_output',
    'layers/*/norm': _BLOCK + 'full_layer_layer_norm',
  },
  heads=dict(
    classify={'head/dense': 'albert.pooler', 'head/out': 'classifier'},
    mlm={
      'head/dense': 'predictions.dense',
      'head/norm': 'predictions.LayerNorm',
      'head/out': 'predictions',
    },
  ),
  extras=dict(
    classify=(*BUFFERS, *_QA, 'predictions.', 'sop_classifier.'),
    mlm=(*BUFFERS, *_QA, 'predictions.decoder.', 'sop_classifier.', 'pooler.', 'classifier.'),
  ),
  head_activation='tanh',
  mlm_activation=None,
  head_drops_input=False,
  more=_albert,
)

BERT_LIKE: dict[str, Family] = {
  'bert': _BERT,
  'roberta': _ROBERTA,
  'xlm-roberta': dataclasses.replace(
    _ROBERTA,
    classes=dict(classify='XLMRobertaForSequenceClassification', mlm='XLMRobertaForMaskedLM'),
  ),
  'distilbert': _DISTILBERT,
  'electra': _ELECTRA,
  'albert': _ALBERT,
}
