import importlib.resources
import importlib.resources.abc
import pathlib
import sys

import numpy as np
import pytest
from data_config import make

from kdjax import tasks
from kdjax.data import sources

_ROWS = {'train': [('a é', 'b', 1), ('c', 'd', 0)], 'validation': [('e', 'f', 1)],
         'test': [('g', 'h', -1)]}  # fmt: skip


def _check(text):
  got = {
    name: list(zip(table.first, table.second, table.label.tolist(), strict=True))
    for name, table in text.splits.items()
  }
  assert {name: sorted(rows) for name, rows in got.items()} == _ROWS
  assert text.labels == ('entailment', 'not_entailment')
  assert text.splits['train'].label.dtype == np.int32


def test_the_hub_gives_the_splits_of_the_task(monkeypatch):
  import datasets

  def load_dataset(*args):
    assert args == ('nyu-mll/glue', 'rte')
    names = ('sentence1', 'sentence2', 'label')
    return datasets.DatasetDict({
      split: datasets.Dataset.from_list([dict(zip(names, row, strict=True)) for row in rows])
      for split, rows in _ROWS.items()
    })  # fmt: skip

  monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
  _check(sources.read(make(source='hub'), tasks.GLUE['rte']))


def test_a_hub_out_of_reach_is_one_line_with_the_remedy(monkeypatch):
  import datasets

  def load_dataset(*args):
    raise ConnectionError('no route\nto host')

  monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
  with pytest.raises(ValueError, match=r'no route to host.*config.data.dir') as caught:
    sources.read(make(source='hub'), tasks.GLUE['rte'])
  assert '\n' not in str(caught.value)


def test_tfds_files_are_read_without_tensorflow(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds
  from tensorflow_datasets.text import glue

  def split_generators(self, manager):
    return {name: self._generate_examples(rows) for name, rows in _ROWS.items()}

  def generate_examples(self, rows):
    for i, (first, second, label) in enumerate(rows):
      yield i, {'sentence1': first, 'sentence2': second, 'label': label, 'idx': i}

  monkeypatch.setattr(glue.Glue, '_split_generators', split_generators)
  monkeypatch.setattr(glue.Glue, '_generate_examples', generate_examples)
  # What writes (and never what reads) needs this package on some versions of Python.
  monkeypatch.setitem(sys.modules, 'importlib_resources', importlib.resources)
  builder = tfds.builder('glue/rte', data_dir=str(tmp_path), file_format='array_record')
  builder.download_and_prepare()
  assert list(pathlib.Path(tmp_path).rglob('*array_record*'))
  monkeypatch.undo()
  _check(sources.read(make(source='tfds', dir=tmp_path), tasks.GLUE['rte']))


def test_tfds_out_of_reach_is_one_line_with_the_remedy(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  def builder(*args, **kwargs):
    raise OSError('cannot download')

  monkeypatch.setattr(tfds, 'builder', builder)
  with pytest.raises(ValueError, match=r'cannot download.*config.data.dir'):
    sources.read(make(source='tfds', dir=tmp_path), tasks.GLUE['rte'])
