import collections
import json
import os
import subprocess
import sys

import data_config
import pytest

from kdjax import tasks
from kdjax.data import docs, sources

_PROGRAM = """
import importlib.util, json, sys
# The modules by their files: what kdjax itself imports is not the question here.
spec = importlib.util.spec_from_file_location('docs', sys.argv[1])
docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docs)
rows = docs.corpus()
print(json.dumps([rows, [name for name in docs.LABELS if name in sys.modules]]))
"""


def _other_process(hash_seed):
  env = os.environ | {'PYTHONHASHSEED': hash_seed}
  out = subprocess.run(
    [sys.executable, '-c', _PROGRAM, docs.__file__], capture_output=True, text=True, env=env
  )
  assert not out.returncode, out.stderr
  rows, imported = json.loads(out.stdout)
  return {name: [tuple(row) for row in split] for name, split in rows.items()}, imported


@pytest.fixture(scope='module')
def corpus():
  pytest.importorskip('pandas')
  pytest.importorskip('matplotlib')
  return docs.corpus()


def test_nothing_is_imported_and_the_hash_seed_decides_nothing(corpus):
  rows, imported = _other_process('12345')
  assert imported == []
  assert rows == corpus


def test_classes_are_balanced_in_every_split(corpus):
  for name, size in docs.SPLITS.items():
    counts = collections.Counter(label for _, label in corpus[name])
    assert sorted(counts) == list(range(len(docs.LABELS)))
    assert len(set(counts.values())) == 1
    assert counts[0] <= size
  most = len(docs.LABELS) * docs.SPLITS['train']
  assert most / 2 <= len(corpus['train']) <= most


def test_no_text_is_in_two_classes_or_twice_in_one(corpus):
  texts = [text.casefold() for split in corpus.values() for text, _ in split]
  assert len(texts) == len(set(texts))


def test_texts_are_short_prose_that_names_no_library(corpus):
  for split in corpus.values():
    for text, _ in split:
      assert 4 <= len(text.split()) <= 60
      assert text == ' '.join(text.split())
      words = set(text.casefold().replace('.', ' ').split())
      assert not words & {*docs.LABELS, 'np', 'jnp', 'plt', 'pd'}, text


def test_classes_are_mixed_in_the_order_of_rows(corpus):
  head = [label for _, label in corpus['train'][:200]]
  assert len(set(head)) == len(docs.LABELS)


def test_the_source_gives_tables(corpus, monkeypatch):
  monkeypatch.setattr(docs, 'corpus', lambda: corpus)
  text = sources.read(data_config.make(source='docs'), tasks.Spec('docs'))
  assert text.labels == docs.LABELS
  train = text.splits['train']
  assert train.second is None
  assert list(zip(train.first, train.label.tolist(), strict=True)) == corpus['train']
  assert train.label.dtype == train.index.dtype == 'int32'


def test_a_library_that_is_not_installed_is_named_with_its_remedy(monkeypatch):
  found = docs.importlib.util.find_spec
  monkeypatch.setattr(
    docs.importlib.util, 'find_spec', lambda name: None if name == 'pandas' else found(name)
  )
  with pytest.raises(ValueError, match='pip install pandas'):
    docs.corpus()


@pytest.mark.parametrize(
  'doc, want',
  [
    ('Compute the *mean* of ``a``.\n\nParameters\n----------\na : array', 'Compute the mean of a.'),
    ('Wrap :func:`numpy.mean` for any :class:`~pkg.Array` given as input.',
     'Wrap library.mean for any pkg.Array given as input.'),
    ('See [`Trainer`], [the guide](guide.md) and `the site <site>`_ for more.',
     'See Trainer, the guide and the site for more.'),
    ('Draw a line on the plot.\n\nThe line goes from left to right.',
     'Draw a line on the plot. The line goes from left to right.'),
    ('jax.numpy arrays, like np.array but lazy.', 'library arrays, like library.array but lazy.'),
    ('Too short.', ''),
    ('foo(a, b) -> the sum of both numbers', ''),
    ('Deprecated since version 2: use the other one.', ''),
    ('>>> print(this is not prose at all)', ''),
    ('', ''),
  ],
)  # fmt: skip
def test_a_summary_is_prose_without_markup(doc, want):
  assert docs.summary(doc) == want
