"""The modes eval and predict, of a model that is named."""

import csv
import json

import pytest

from configs import kd
from kdjax import exports, inference, predict
from tests import toy


def test_a_task_of_pairs_reads_its_own_columns(tmp_path):
  c = kd.get_config('mrpc')
  c.eval.model = str(toy.model(tmp_path / 'model'))
  rows = tmp_path / 'rows.csv'
  c.eval.data = str(rows)
  rows.write_text('sentence1,sentence2\ngood film,dull plot\nthe film,a film\n')
  with inference.prediction(c, tmp_path).open() as file:
    found = list(csv.DictReader(file))
  assert [row['sentence2'] for row in found] == ['dull plot', 'a film']
  rows.write_text('sentence1,second\ngood film,dull plot\n')
  said = "no column 'sentence2': config.data.pair is one of 'sentence1', 'second'"
  with pytest.raises(ValueError, match=said):
    inference.prediction(c, tmp_path)
  c.data.update(text='sentence1', pair='second')
  with inference.prediction(c, tmp_path).open() as file:
    assert [row['second'] for row in csv.DictReader(file)] == ['dull plot']


@pytest.mark.parametrize('given, want', [(0, 20), (7, 7)])
def test_texts_are_cut_where_the_model_was_trained_to(tmp_path, rng, monkeypatch, given, want):
  c = kd.get_config('sst2')
  c.eval.model = str(
    toy.model(tmp_path / 'model', kdjax_max_length=20, id2label={0: 'neg', 1: 'pos'})
  )
  c.eval.data, c.data.max_length = str(tmp_path / 'rows.csv'), given
  (tmp_path / 'rows.csv').write_text('sentence\ngood film\n')
  asked = []

  class Clf(predict.Classifier):
    def __init__(self, *args):
      super().__init__(*args)
      asked.append(self._reader.max_length)

  monkeypatch.setattr(predict, 'Classifier', Clf)
  inference.prediction(c, tmp_path)
  own = toy.config('kd', tmp_path, rng, **{'data.max_length': given, 'eval.model': c.eval.model})
  inference.prediction(own, tmp_path)
  inference.evaluation(own, tmp_path)
  assert asked == 3 * [want]
  target = exports.export(own, tmp_path)
  assert json.loads((target / exports.REPORT).read_text())['lengths'][-1] == want
