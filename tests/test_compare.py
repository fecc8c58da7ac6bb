"""Two models side by side: closed forms, a whole command, refusals."""

import csv
import json

import numpy as np
import pytest

from kdjax import compare, predict
from tests import toy


def test_calibration_of_two_bins_is_its_sum():
  # 4 rows at 0.9 of which 2 are right, 6 at 0.6 of which 6 are: (4 x 0.4 + 6 x 0.4) / 10.
  p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 6)
  label = np.array([0, 0, 1, 1] + [1] * 6)
  error, bins = compare.calibration(p, label)
  assert error == pytest.approx(0.4)
  assert [b['rows'] for b in bins] == [6, 4]
  assert [b['accuracy'] for b in bins] == [1, 0.5]
  for b in bins:
    assert b['from'] <= b['confidence'] <= b['to']
  sure = np.array([[1.0, 0.0], [0.0, 1.0]])
  assert compare.calibration(sure, np.array([0, 1]))[0] == 0


def test_a_class_has_its_precision_and_recall():
  found = compare.classes(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ('a', 'b', 'c'))
  assert found['a'] == dict(precision=0.5, recall=1, f1=pytest.approx(2 / 3), rows=1)
  assert found['b'] == dict(precision=1, recall=pytest.approx(2 / 3), f1=pytest.approx(0.8), rows=3)
  assert found['c'] == dict(precision=0, recall=0, f1=0, rows=0)


@pytest.fixture
def folders(tmp_path):
  """Two models of the same classes, in another order, and rows; some have no label."""
  from transformers import AutoConfig

  one, other = toy.model(tmp_path / 'one'), toy.model(tmp_path / 'other' / 'model', layers=1)
  for where, names in ((one, ('neg', 'pos')), (other, ('pos', 'neg'))):
    config = AutoConfig.from_pretrained(where)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    config.save_pretrained(where)
  return one, other


def test_the_command_writes_what_the_models_say(rng, tmp_path, folders, capsys):
  one, other = map(str, folders)
  data = toy.file(tmp_path / 'rows.csv', rng, 60)
  text = [row[0] for row in csv.reader(data.open())][1:]
  with data.open('a', newline='') as file:
    csv.writer(file).writerow(['the film', ''])
  out = tmp_path / 'out'
  compare.main([one, other, f'--data={data}', '--label=label', f'--out={out}'])
  found = json.loads((out / 'compare.json').read_text())
  p_one, p_other = predict.load(one)(text), predict.load(other)(text)[:, ::-1]
  gold = np.array([row[1] for row in csv.reader(data.open())][1:-1]) == 'pos'
  alike = (p_one.argmax(1) == p_other.argmax(1)).tolist()
  accuracies = [(p.argmax(1) == gold).mean() for p in (p_one, p_other)]
  assert (found['rows'], found['labelled'], found['labels']) == (61, 60, ['neg', 'pos'])
  models = found['models']
  assert list(models) == ['one', 'other']
  assert [own['accuracy'] for own in models.values()] == pytest.approx(accuracies)
  assert found['difference']['mean'] == pytest.approx(accuracies[1] - accuracies[0])
  for own, p in zip(models.values(), (p_one, p_other), strict=True):
    assert own['calibration_error'] == pytest.approx(compare.calibration(p, gold)[0], abs=1e-6)
    assert own['latency_ms'] > 0 and own['rows_per_second'] > 0 and own['bytes'] > 1000
  rows = [int(row['row']) for row in csv.DictReader((out / 'differ.csv').open())]
  assert sorted(rows)[: alike.count(False)] == [i + 1 for i, same in enumerate(alike) if not same]
  assert found['differ'] == len(rows) and found['agreement'] == pytest.approx(1 - len(rows) / 61)
  assert 'decided alike' in capsys.readouterr().out and (out / 'compare.md').exists()


def test_without_labels_only_the_models_are_compared(rng, tmp_path, folders):
  data = toy.file(tmp_path / 'rows.csv', rng, 8)
  compare.main([*map(str, folders), f'--data={data}', f'--out={tmp_path / "out"}'])
  found = json.loads((tmp_path / 'out' / 'compare.json').read_text())
  assert 'difference' not in found and not (tmp_path / 'out' / 'reliability.png').exists()


def test_what_cannot_be_compared_is_said_in_a_line(rng, tmp_path, folders):
  one, other = map(str, folders)
  data = toy.file(tmp_path / 'rows.csv', rng, 8)
  third = str(toy.model(tmp_path / 'third', labels=3))
  for argv, said in (
    ([one, other, '--text=x'], r'no column x: --text is one of text, label'),
    ([one, one], 'are one model'),
    ([one, third], 'classes differ: .*third has'),
    ([one, other, '--label=text'], r'rows.csv, column text: row 1'),
  ):
    with pytest.raises(SystemExit, match=f'error: .*{said}'):
      compare.main([*argv, f'--data={data}', f'--out={tmp_path / "out"}'])
  assert not (tmp_path / 'out').exists()
