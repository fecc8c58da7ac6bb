"""config.data.train as a folder, a saved data set, or one of the hub."""

import logging

import datasets
import numpy as np
import pytest
from data_config import jsonl, make, parquet

from kdjax import tasks
from kdjax.data import sources

_SPEC = tasks.Spec('own')
_ROWS = dict(text=['a', 'b', 'c', 'd'], label=[1, 0, 1, 0])


def _named(columns, names=('pos', 'neg')):
  features = datasets.Features(
    text=datasets.Value('string'), label=datasets.ClassLabel(names=names)
  )
  return datasets.Dataset.from_dict(columns, features)


def _hub(monkeypatch, found, asked=None):
  def load_dataset(*args):
    assert args == (asked or ('owner/name', None))
    return datasets.DatasetDict(found)

  monkeypatch.setattr(datasets, 'load_dataset', load_dataset)


def test_class_names_and_their_order_are_those_of_the_data_set(tmp_path, monkeypatch, caplog):
  caplog.set_level(logging.INFO, 'kdjax')
  parts = dict(train=_named(_ROWS), dev=_named(_ROWS), test=_named(_ROWS | dict(label=[-1] * 4)))
  datasets.DatasetDict(parts).save_to_disk(tmp_path / 'saved')
  _hub(monkeypatch, parts | dict(unsupervised=_named(_ROWS)))
  for where in (str(tmp_path / 'saved'), 'owner/name'):
    text = sources.read(make(train=where), _SPEC)
    assert text.labels == ('pos', 'neg')  # not in the order of the alphabet
    assert list(text.splits) == ['train', 'validation', 'test']
    np.testing.assert_array_equal(text.splits['validation'].label, [1, 0, 1, 0])
    np.testing.assert_array_equal(text.splits['test'].label, [-1] * 4)
    assert text.splits['train'].first == ['a', 'b', 'c', 'd']
  assert "splits left out: 'unsupervised'" in caplog.text
  turned = sources.read(make(train='owner/name'), tasks.Spec('own', labels=('neg', 'pos')))
  np.testing.assert_array_equal(turned.splits['train'].label, [0, 1, 0, 1])


def test_a_configuration_follows_a_colon_and_one_split_is_train(tmp_path, monkeypatch):
  _hub(monkeypatch, dict(train=_named(_ROWS)), ('owner/name', 'part'))
  text = sources.read(make(train='owner/name:part'), _SPEC)
  assert list(text.splits) == ['train', 'validation']
  _named(_ROWS).save_to_disk(tmp_path / 'one')
  assert sources.read(make(train=tmp_path / 'one'), _SPEC).labels == ('pos', 'neg')


def test_lists_of_classes_are_label_sets(tmp_path):
  classes = datasets.List(datasets.ClassLabel(names=['y', 'x']))
  features = datasets.Features(text=datasets.Value('string'), label=classes)
  rows = dict(text=['a', 'b', 'c'], label=[[0, 1], [], [1]])
  datasets.Dataset.from_dict(rows, features).save_to_disk(tmp_path / 'a')
  spec = tasks.Spec('own', 'multilabel')
  text = sources.read(make(train=tmp_path / 'a', validation=_file(tmp_path)), spec)
  assert text.labels == ('y', 'x')
  np.testing.assert_array_equal(text.splits['train'].label, [[1, 1], [0, 0], [0, 1]])


def _file(folder):
  return jsonl(folder / 'validation.jsonl', [dict(text='v', label=['x'])])


def test_a_folder_of_files_is_its_splits_by_name(tmp_path):
  rows = lambda *texts: [dict(text=t, label=i % 2) for i, t in enumerate(texts)]  # noqa: E731
  (tmp_path / 'data').mkdir()
  parquet(tmp_path / 'data' / 'train-00001-of-00002.parquet', text=['c', 'd'], label=[0, 1])
  parquet(tmp_path / 'data' / 'train-00000-of-00002.parquet', text=['a', 'b'], label=[0, 1])
  (tmp_path / 'dev').mkdir()
  jsonl(tmp_path / 'dev' / 'part0.jsonl', rows('e', 'f'))
  (tmp_path / 'my_test.csv').write_text('text\ng\n')
  (tmp_path / 'notes.md').write_text('no rows')
  text = sources.read(make(train=tmp_path), _SPEC)
  got = {name: table.first for name, table in text.splits.items()}
  assert got == dict(train=['a', 'b', 'c', 'd'], validation=['e', 'f'], test=['g'])
  alone = tmp_path / 'alone'
  alone.mkdir()
  jsonl(alone / 'reviews.jsonl', rows(*'abcdefgh'))
  assert len(sources.read(make(train=alone), _SPEC).splits['validation'].first) == 2


def test_what_is_wrong_with_a_folder_is_one_line(tmp_path):
  def no(match, **write):
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    for name, text in write.items():
      (folder / name.replace('__', '.')).write_text(text)
    with pytest.raises(ValueError, match=match):
      sources.read(make(train=folder), _SPEC)

  head = 'text,label\na,x\nb,y\n'
  no('no train split: a folder holds .*it has none')
  no("no train split.*it has 'test.csv'", test__csv=head)
  no('train in files of several kinds', train__csv=head, train__tsv=head.replace(',', '\t'))
  no("columns 'text', 'y' are not those of train1.csv: 'text', 'label'",
     train1__csv=head, train2__csv='text,y\na,x\n')  # fmt: skip
  no('no readable data set', dataset_dict__json='{')
  no(r"train.csv: no column 'text'; it has 'words', 'label'", train__csv='words,label\na,x\n')


def test_a_data_set_out_of_reach_or_without_the_columns_names_the_remedy(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=r'nowhere/x is no file or folder here.*save_to_disk') as e:
    sources.read(make(train='nowhere/x'), _SPEC)
  assert '\n' not in str(e.value)
  with pytest.raises(ValueError, match=r'nowhere/x.csv: no such file'):
    sources.read(make(train='nowhere/x.csv'), _SPEC)
  _hub(monkeypatch, dict(train=_named(_ROWS)))
  spec = tasks.Spec('own', columns=('review',))
  with pytest.raises(
    ValueError, match="owner/name, train: no column 'review'; it has 'text', 'lab"
  ):
    sources.read(make(train='owner/name'), spec)
  _hub(monkeypatch, dict(other=_named(_ROWS)))
  with pytest.raises(ValueError, match="owner/name: no train split; it has 'other'"):
    sources.read(make(train='owner/name'), _SPEC)
