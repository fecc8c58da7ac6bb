"""ModernBERT's table, and what its config.json says beyond it (Warner et al., arXiv:2412.13663).

Names and meanings: transformers' ModernBertConfig, in its own form and in that of the files of
before transformers 5 (global_attn_every_n_layers, global_rope_theta, local_rope_theta).
"""

import dataclasses
from typing import Any

from kdjax import quote
from kdjax.models import checks, tables

GLOBAL, LOCAL = 'full_attention', 'sliding_attention'


@dataclasses.dataclass(frozen=True)
class Own:
  """What ModernBERT alone has.

  everywhere: by layer, whether it attends to all tokens, or to those that are near.
  window: the largest distance that is near.
  theta, near_theta: bases of the rotary positions of the one and of the other.
  attention_bias, ffn_bias: whether those projections have biases.
  ffn_dropout: inside the feed-forward block, before its last projection.
  pooling: the classifier reads the first token ('cls') or the mean of all ('mean').
  """

  everywhere: tuple[bool, ...]
  window: int
  theta: float
  near_theta: float
  attention_bias: bool
  ffn_bias: bool
  ffn_dropout: float
  pooling: str


def _more(config: Any, head: str) -> dict[str, Any]:
  """Fields of Spec; ValueError that names the key and the value that are not here."""
  flags = {
    name: checks.one_of(name, getattr(config, name), (False, True))
    for name in ('norm_bias', 'attention_bias', 'mlp_bias', 'decoder_bias', 'classifier_bias')
  }
  if head == 'mlm':
    checks.one_of('decoder_bias', config.decoder_bias, (True,))
  kinds = config.layer_types
  if not isinstance(kinds, list | tuple) or len(kinds) != config.num_hidden_layers:
    raise ValueError(
      f'layer_types {quote.value(kinds)} does not say one for each of {config.num_hidden_layers} '
      'layers'
    )
  for kind in kinds:
    checks.one_of('layer_types', kind, (GLOBAL, LOCAL))
  if config.hidden_size % (2 * config.num_attention_heads):
    raise ValueError(
      f'num_attention_heads is {config.num_attention_heads}; rotary positions need heads of an '
      f'even width, and hidden_size is {config.hidden_size}'
    )
  own = Own(
    everywhere=tuple(kind == GLOBAL for kind in kinds),
    window=checks.between('local_attention', config.local_attention, 1, 1 << 24) // 2,
    theta=_theta(config.rope_parameters, GLOBAL),
    near_theta=_theta(config.rope_parameters, LOCAL),
    attention_bias=flags['attention_bias'],
    ffn_bias=flags['mlp_bias'],
    ffn_dropout=checks.between('mlp_dropout', config.mlp_dropout, 0.0, 0.99),
    pooling=checks.one_of('classifier_pooling', config.classifier_pooling, ('cls', 'mean')),
  )
  return dict(
    absolute=False,
    norm_bias=flags['norm_bias'],
    head_bias=flags['classifier_bias'],
    head_activation=config.classifier_activation,
    own=own,
  )


def _theta(rope: Any, kind: str) -> float:
  """The base of plain rotary positions: none that are scaled or that turn a part of the width."""
  found = rope.get(kind) if isinstance(rope, dict) else None
  if not isinstance(found, dict):
    raise ValueError(f'rope_parameters {quote.value(rope)} has none of {kind}')
  checks.one_of(f'rope_parameters.{kind}.rope_type', found.get('rope_type'), ('default',))
  for name in sorted(map(str, found.keys() - {'rope_type', 'rope_theta', 'type'})):
    raise ValueError(
      f'rope_parameters.{kind}.{name} {quote.value(found.get(name))} is not supported; rotary '
      'positions here are plain'
    )
  theta = found.get('rope_theta')
  return float(checks.between(f'rope_parameters.{kind}.rope_theta', theta, 1.0, 1e12))


_HEAD = {'head/dense': 'head.dense', 'head/norm': 'head.norm'}
FAMILY = tables.Family(
  prefix='model',
  classes=dict(classify='ModernBertForSequenceClassification', mlm='ModernBertForMaskedLM'),
  sizes=dict(
    vocab='vocab_size',
    width='hidden_size',
    embed_width='hidden_size',
    layers='num_hidden_layers',
    heads='num_attention_heads',
    ffn='intermediate_size',
    positions='max_position_embeddings',
    eps='norm_eps',
    activation='hidden_activation',
    dropout='embedding_dropout',
    attention_dropout='attention_dropout',
    mix_dropout='attention_dropout',
    head_dropout='classifier_dropout',
  ),
  names={
    'embeddings/word': 'embeddings.tok_embeddings',
    'embeddings/norm': 'embeddings.norm',
    'layers/*/mix_norm': 'layers.*.attn_norm',
    'layers/*/query': 'layers.*.attn.Wqkv[0/3]',
    'layers/*/key': 'layers.*.attn.Wqkv[1/3]',
    'layers/*/value': 'layers.*.attn.Wqkv[2/3]',
    'layers/*/mix': 'layers.*.attn.Wo',
    'layers/*/norm': 'layers.*.mlp_norm',
    'layers/*/up': 'layers.*.mlp.Wi[0/2]',
    'layers/*/gate': 'layers.*.mlp.Wi[1/2]',
    'layers/*/down': 'layers.*.mlp.Wo',
    'norm': 'final_norm',
  },
  heads=dict(
    classify=_HEAD | {'head/out': 'classifier'},
    mlm=_HEAD | {'head/out': 'decoder'},
  ),
  extras=dict(classify=('decoder.',), mlm=('decoder.weight', 'classifier.')),
  head_activation='gelu',
  mlm_activation='gelu',
  head_drops_input=False,
  kept=('head.',),
  more=_more,
)
