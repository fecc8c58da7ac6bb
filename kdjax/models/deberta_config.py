"""DeBERTa-v2's and -v3's table, and what their config.json says beyond it.

He et al., arXiv:2006.03654 and 2111.09543; names and meanings: transformers' DebertaV2Config.
"""

import dataclasses
from typing import Any

from kdjax import quote
from kdjax.models import checks, tables

_MOST = 1 << 16  # positions
# Published ones have a table of absolute positions that they do not use, and two more heads.
_EXTRAS = (
  *tables.BUFFERS, 'embeddings.position_embeddings.', 'lm_predictions.', 'mask_predictions.',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Own:
  """What DeBERTa alone has.

  buckets: each distance up to half of it has a row of its own, farther ones share rows by their
    logarithm; 0: all up to farthest have their own.
  farthest: the distance from which on all share one.
  shared: relative positions go through the projections of the content (share_att_key).
  normed: the table of relative positions goes through a layer norm.
  to_position, from_position: content attends to positions (c2p), positions to content (p2c).
  """

  buckets: int
  farthest: int
  shared: bool
  normed: bool
  to_position: bool
  from_position: bool

  @property
  def span(self) -> int:
    """Half the rows of the table of relative positions."""
    return self.buckets or self.farthest


def _more(config: Any, head: str) -> dict[str, Any]:
  """Fields of Spec; ValueError that names the key and the value that are not here.

  Keys that transformers' class does not declare have the defaults of its model.
  """
  checks.one_of('relative_attention', config.relative_attention, (True,))
  convolution = getattr(config, 'conv_kernel_size', 0)
  if convolution:
    raise ValueError(f'conv_kernel_size {quote.value(convolution)} is not supported; only 0')
  width = config.hidden_size // config.num_attention_heads
  checks.one_of('attention_head_size', getattr(config, 'attention_head_size', width), (width,))
  if head == 'mlm':
    checks.one_of('legacy', config.legacy, (True,))
  ways = config.pos_att_type
  if not isinstance(ways, list | tuple) or not ways or not set(map(str, ways)) <= {'c2p', 'p2c'}:
    raise ValueError(
      f'pos_att_type {quote.value(ways)} is not supported; it may be c2p, p2c or both'
    )
  norm = getattr(config, 'norm_rel_ebd', 'none')
  checks.one_of('norm_rel_ebd', norm, ('none', 'layer_norm'))
  buckets = checks.between('position_buckets', getattr(config, 'position_buckets', -1), -1, _MOST)
  farthest = checks.between('max_relative_positions', config.max_relative_positions, -1, _MOST)
  farthest = farthest if farthest > 0 else config.max_position_embeddings
  if buckets == 1 or (buckets > 0 and farthest <= buckets // 2 + 1):
    raise ValueError(
      f'position_buckets {buckets} of max_relative_positions {farthest} is not supported: half of '
      'them must be from 1 to less than the farthest position'
    )
  own = Own(
    buckets=max(buckets, 0),
    farthest=farthest,
    shared=checks.one_of('share_att_key', getattr(config, 'share_att_key', False), (False, True)),
    normed=norm == 'layer_norm',
    to_position='c2p' in ways,
    from_position='p2c' in ways,
  )
  absolute = checks.one_of('position_biased_input', config.position_biased_input, (False, True))
  dropout = checks.between('pooler_dropout', config.pooler_dropout, 0.0, 0.99)
  activation = config.hidden_act if head == 'mlm' else config.pooler_hidden_act
  return dict(absolute=absolute, head_input_dropout=dropout, head_activation=activation, own=own)


FAMILY = tables.Family(
  prefix='deberta',
  classes=dict(classify='DebertaV2ForSequenceClassification', mlm='DebertaV2ForMaskedLM'),
  sizes=tables.SIZES | dict(head_dropout='cls_dropout'),
  names=tables.EMBEDDINGS
  | tables.LAYER
  | {
    'relative': 'encoder.rel_embeddings',
    'relative_norm': 'encoder.LayerNorm',
    'layers/*/query': 'encoder.layer.*.attention.self.query_proj',
    'layers/*/key': 'encoder.layer.*.attention.self.key_proj',
    'layers/*/value': 'encoder.layer.*.attention.self.value_proj',
    'layers/*/position/query': 'encoder.layer.*.attention.self.pos_query_proj',
    'layers/*/position/key': 'encoder.layer.*.attention.self.pos_key_proj',
  },
  heads=dict(
    classify={'head/dense': 'pooler.dense', 'head/out': 'classifier'},
    mlm={
      'head/dense': 'cls.predictions.transform.dense',
      'head/norm': 'cls.predictions.transform.LayerNorm',
      'head/out': 'cls.predictions',
    },
  ),
  extras=dict(
    classify=(*_EXTRAS, 'cls.'),
    mlm=(*_EXTRAS, 'cls.predictions.decoder.', 'pooler.', 'classifier.'),
  ),
  head_activation='gelu',
  mlm_activation=None,
  head_drops_input=False,
  more=_more,
  follows=dict(embedding_size='width', pooler_hidden_size='width'),
)
