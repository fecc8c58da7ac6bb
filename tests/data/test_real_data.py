"""Published data and tokenizers, where the machine has them."""

import json
import pathlib

import numpy as np
import pytest
from data_config import make

from kdjax import tasks
from kdjax.data import batches, sources, tokens

_SHARED = pathlib.Path(__file__).parents[3] / 'shared'
_GLUE = _SHARED / 'data' / 'glue'
_COUNTS = dict(
  sst2=dict(train=67_349, validation=872, test=1_821),
  cola=dict(train=8_551, validation=1_043, test=1_063),
  mrpc=dict(train=3_668, validation=408, test=1_725),
  rte=dict(train=2_490, validation=277, test=3_000),
  stsb=dict(train=5_749, validation=1_500, test=1_379),
  wnli=dict(train=635, validation=71, test=146),
  ax=dict(test=1_104),
  qnli=dict(train=12_095, validation=5_463, test=5_463),
  mnli=dict(train=20_085, validation_matched=9_815),
  qqp=dict(train=33_180, validation=10_000),
)
_UNLABELLED = ('cola', 'rte', 'wnli', 'ax', 'qnli')

needs_glue = pytest.mark.skipif(not _GLUE.is_dir(), reason=f'no {_GLUE}')


@needs_glue
@pytest.mark.parametrize('task', _COUNTS)
def test_a_glue_task_has_its_rows_and_labels(task):
  spec = tasks.GLUE[task]
  text = sources.read(make(source='local', dir=_GLUE), spec)
  assert {name: len(table.first) for name, table in text.splits.items()} == _COUNTS[task]
  assert text.labels == spec.labels
  for name, table in text.splits.items():
    assert (table.second is None) == (len(spec.columns) == 1)
    assert len(table.index) == len(table.label) == len(table.first)
    if name == 'test' and task in _UNLABELLED:
      assert (table.label == -1).all()
    elif spec.kind == 'regression':
      assert table.label.min() >= 0 and table.label.max() <= 5
    else:
      assert set(table.label) == set(range(len(spec.labels)))


@needs_glue
@pytest.mark.parametrize('name', ['bert-base-uncased', 'distilroberta-base'])
def test_real_pairs_are_tokenised_as_the_tokenizer_alone_does(name, tmp_path):
  tokenizer = _tokenizer(name)
  text = sources.read(make(source='local', dir=_GLUE), tasks.GLUE['rte'])
  table = sources.subset(text.splits['train'], 1.0, 40, 0, 'classes')
  out = tokens.tokenise(table, tokenizer, 64, tmp_path)
  for i, (first, second) in enumerate(zip(table.first, table.second, strict=True)):
    want = tokenizer(first, second, truncation=True, max_length=64)['input_ids']
    assert out.tokens[i, : out.length[i]].tolist() == want
    assert (out.tokens[i, out.length[i] :] == tokenizer.pad_token_id).all()
  assert out.segments.any() == (name == 'bert-base-uncased')
  usable = tokens.ordinary(tokenizer, len(tokenizer) + 6)
  data = batches.Dataset(out, table.label, table.index, usable)
  for batch, _ in batches.eval_batches(data, 16, (16, 32)):
    special = np.isin(batch['tokens'], tokenizer.all_special_ids)
    assert not (batch['maskable'] & special).any()
    np.testing.assert_array_equal(batch['maskable'], batch['mask'] & ~special)


def _tokenizer(name):
  import transformers

  folder = _SHARED / 'tokenizers' / name
  if not folder.is_dir():
    pytest.skip(f'no {folder}')
  return transformers.AutoTokenizer.from_pretrained(folder)


def test_unused_rows_of_bert_are_not_ordinary():
  tokenizer = _tokenizer('bert-base-uncased')
  usable = tokens.ordinary(tokenizer, 30_522)
  vocabulary = json.loads((_SHARED / 'tokenizers/bert-base-uncased/tokenizer.json').read_text())
  unused = [i for token, i in vocabulary['model']['vocab'].items() if token.startswith('[unused')]
  assert len(unused) == 994
  assert not usable[unused].any()
  assert usable.sum() == 30_522 - 994 - 5


def test_bert_and_roberta_have_other_ids_and_bert_has_its_own():
  bert, roberta = _tokenizer('bert-base-uncased'), _tokenizer('distilroberta-base')
  assert tokens.same_ids(bert, _tokenizer('bert-base-uncased')) == ''
  assert 'disagree on' in tokens.same_ids(bert, roberta)
  assert 'disagree on' in tokens.same_ids(bert, _tokenizer('bert-base-cased'))
