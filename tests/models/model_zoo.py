"""Tiny random models of every family in PyTorch, and inputs for them."""

import numpy as np
import pytest

FAMILIES = (
  'bert', 'roberta', 'xlm-roberta', 'distilbert', 'electra', 'albert', 'modernbert', 'deberta-v2',
)  # fmt: skip
VOCAB, WIDTH, LENGTH = 60, 32, 11


def config(family, **changes):
  """A tiny config; ELECTRA and ALBERT with E != D, XLM-R with two token types, RoBERTa with one.

  ModernBERT as published, with a window shorter than the inputs; DeBERTa as v3, with buckets.

  Weights ten times larger than in practice, so that a mistake shows. Larger still, and float32
  itself, theirs as ours, is 1e-5 away from float64 in one model of a hundred.
  """
  import transformers

  sizes = dict(
    vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=48, max_position_embeddings=24, num_labels=3, initializer_range=0.2,
  )  # fmt: skip
  kind, own = {
    'bert': (transformers.BertConfig, {}),
    'roberta': (transformers.RobertaConfig, dict(type_vocab_size=1, layer_norm_eps=1e-5)),
    'xlm-roberta': (transformers.XLMRobertaConfig, dict(type_vocab_size=2, layer_norm_eps=1e-5)),
    'distilbert': (transformers.DistilBertConfig, {}),
    'electra': (transformers.ElectraConfig, dict(embedding_size=20)),
    'albert': (transformers.AlbertConfig, dict(embedding_size=20)),
    'modernbert': (
      transformers.ModernBertConfig,
      dict(local_attention=6, pad_token_id=0, global_attn_every_n_layers=2),
    ),
    'deberta-v2': (
      transformers.DebertaV2Config,
      dict(
        relative_attention=True,
        position_buckets=8,
        norm_rel_ebd='layer_norm',
        share_att_key=True,
        pos_att_type='p2c|c2p',
        position_biased_input=False,
      ),
    ),
  }[family]
  if family == 'distilbert':
    sizes |= dict(dim=WIDTH, n_layers=2, n_heads=4, hidden_dim=48)
    for name in ('hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size'):
      del sizes[name]
  return kind(**(sizes | own | changes))


def fresh_seed():
  """Another one every run, printed, so that a failure can be repeated."""
  seed = int(np.random.SeedSequence().entropy % 2**31)
  print(f'seed {seed}')  # pytest shows it with a failure
  return seed


def torch_model(conf, head='classify', seed=0):
  """A PyTorch model in eval mode: large weights, and biases and norms that are not trivial."""
  torch = pytest.importorskip('torch')
  import transformers

  kind = dict(
    classify=transformers.AutoModelForSequenceClassification,
    mlm=transformers.AutoModelForMaskedLM,
    base=transformers.AutoModel,
  )[head]
  model = kind.from_config(conf).eval()
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, p in model.named_parameters():
      noise = torch.randn(p.shape, generator=generator)
      if p.ndim == 1:
        p.copy_(0.2 * noise + (1.0 if name.lower().endswith('norm.weight') else 0.0))
      else:
        p.copy_(conf.initializer_range * noise)
  return model


def inputs(conf, seed=0, batch=3, length=LENGTH):
  """Padded pairs: tokens, segments i32[B, L], mask bool[B, L]; no padding id among the tokens."""
  rng = np.random.default_rng(seed)
  real = rng.integers(3, length + 1, batch)
  real[0] = length
  mask = np.arange(length)[None] < real[:, None]
  tokens = rng.integers(2, conf.vocab_size, (batch, length))
  tokens = np.where(mask, tokens, conf.pad_token_id).astype(np.int32)
  types = getattr(conf, 'type_vocab_size', 0)
  segments = (np.arange(length)[None] >= (real // 2)[:, None]) & mask & (types > 1)
  return dict(tokens=tokens, segments=segments.astype(np.int32), mask=mask)


def torch_inputs(conf, batch):
  """The same as PyTorch's keyword arguments, without the ids."""
  import torch

  args = dict(attention_mask=torch.tensor(batch['mask'].astype(np.int64)))
  if getattr(conf, 'type_vocab_size', 0):
    args['token_type_ids'] = torch.tensor(batch['segments'].astype(np.int64))
  return args
