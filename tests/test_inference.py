"""The modes eval and predict, of a model that is named."""

import csv

import pytest

from configs import kd
from kdjax import inference
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
  with pytest.raises(ValueError, match="no column 'sentence2': it has 'sentence1', 'second'"):
    inference.prediction(c, tmp_path)
