"""Unlabelled text on disk: what the rows are, when they are made anew, and what that costs."""

import os
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from ml_collections import ConfigDict
from pyarrow import parquet

from kdjax.data import batches, corpus, table
from tests import toy

_L = 12
_IDS = {w: i for i, w in enumerate([*toy.SPECIAL, *toy.WORDS])}
_CLS, _SEP = _IDS['[CLS]'], _IDS['[SEP]']


def _config(where, **changes):
  c = dict(unlabelled=str(where), text='text', max_length=_L, pack=True, seed=0)
  c |= dict(validation_fraction=0.1, validation_rows=1000)
  return ConfigDict(c | changes)


def _texts(rng, n: int, longest: int = 40):
  return [' '.join(rng.choice(toy.WORDS, rng.integers(1, longest))) for _ in range(n)]


def _file(path, texts):
  path.write_text('\n'.join(texts) + '\n')
  return path


def _ids(text):
  return [_IDS[word] for word in text.split()]


def _slow(texts, length=_L):
  """Windows, a token at a time."""
  stream = []
  for n, text in enumerate(texts):
    stream += [_SEP] * (n > 0) + _ids(text)
  rows, row = [], []
  for token in stream:
    row.append(token)
    if len(row) == length - 2:
      rows.append([_CLS, *row, _SEP])
      row = []
  return rows or [[_CLS, *row, _SEP]]


def _read(c, cache, **options):
  return corpus.read(c, toy.tokenizer(), cache, **options)


@pytest.mark.parametrize('characters', [1, 300, 1 << 20])
def test_packed_rows_are_those_of_a_slow_reference(rng, tmp_path, monkeypatch, characters):
  monkeypatch.setattr(corpus, '_CHARACTERS', characters)  # blocks of any size give the same rows
  texts = _texts(rng, int(rng.integers(20, 60)))
  found = _read(_config(_file(tmp_path / 'a.txt', texts)), tmp_path / 'cache')
  want = np.array(_slow(texts), np.int32)
  np.testing.assert_array_equal(found.tokens.tokens, want)
  assert (found.tokens.length == _L).all() and not found.tokens.segments.any()
  np.testing.assert_array_equal(found.index, np.arange(len(want)))
  assert {a.dtype.name for a in (*found.tokens, found.index)} == {'int32'}
  assert found.held is None


def test_less_than_a_window_is_a_row_of_its_own(tmp_path):
  found = _read(_config(_file(tmp_path / 'a.txt', ['good film', 'bad'])), tmp_path)
  (row,) = _slow(['good film', 'bad'])
  assert found.tokens.length.tolist() == [len(row)]
  assert found.tokens.tokens.tolist() == [row + [0] * (_L - len(row))]


def test_unpacked_each_document_is_a_row(rng, tmp_path):
  texts = _texts(rng, 50)
  found = _read(_config(_file(tmp_path / 'a.txt', texts), pack=False), tmp_path)
  rows = [[_CLS, *_ids(text)[: _L - 2], _SEP] for text in texts]
  assert found.tokens.length.tolist() == [len(row) for row in rows]
  assert found.tokens.tokens.tolist() == [row + [0] * (_L - len(row)) for row in rows]


@pytest.mark.parametrize('pair', [False, True])
def test_rows_of_the_task_follow(rng, tmp_path, pair):
  texts = _texts(rng, 30)
  first, second = ['good film', 'it was dull'], ['bad', 'great'] if pair else None
  also = table.Table(first, second, np.zeros(2, np.int32), np.arange(2, dtype=np.int32))
  c = _config(_file(tmp_path / 'a.txt', texts))
  found, tokens = _read(c, tmp_path / 'cache', also=also), _slow(texts)
  assert len(found.index) == len(tokens) + 2
  assert found.tokens.tokens[:-2].tolist() == tokens
  row = [_CLS, *_ids('good film'), _SEP, *([_IDS['bad'], _SEP] if pair else [])]
  assert found.tokens.tokens[-2, : found.tokens.length[-2]].tolist() == row
  assert found.tokens.segments[-2].tolist() == [0] * 4 + [int(pair)] * 2 + [0] * (_L - 6)
  assert not found.tokens.segments[:-2].any()
  # Without them, or with others, it is another corpus.
  assert len(_read(c, tmp_path / 'cache').index) == len(tokens)


def test_batches_come_from_disk(rng, tmp_path):
  found = _read(_config(_file(tmp_path / 'a.txt', _texts(rng, 60))), tmp_path)
  n = len(found.index)
  data = batches.Dataset(
    found.tokens, np.broadcast_to(np.int32(-1), (n,)), found.index, np.arange(40) > 4, group=2
  )
  batch = next(batches.train_batches(data, 8, (), 0))
  np.testing.assert_array_equal(batch['tokens'], found.tokens.tokens[batch['index']])
  assert type(batch['tokens']) is np.ndarray and (batch['label'] == -1).all()
  with pytest.raises(ValueError, match='read-only'):
    found.tokens.tokens[0, 0] = 1


def _never(*args):
  raise AssertionError('read twice')


def test_a_second_reading_comes_from_the_cache(rng, tmp_path, monkeypatch):
  path = _file(tmp_path / 'a.txt', _texts(rng, 30))
  first = _read(_config(path), tmp_path / 'cache', hold_out=True)
  with monkeypatch.context() as m:
    m.setattr(corpus.streams, 'documents', _never)
    again = _read(_config(path), tmp_path / 'cache', hold_out=True)
    for a, b in zip((*first.tokens, first.index), (*again.tokens, again.index), strict=True):
      np.testing.assert_array_equal(a, b)
    assert again.held.first == first.held.first and again.origin == first.origin
    # What decides the rows decides where they lie.
    for changes in (dict(max_length=10), dict(pack=False), dict(seed=1), dict(validation_rows=2)):
      with pytest.raises(AssertionError, match='read twice'):
        _read(_config(path, **changes), tmp_path / 'cache', hold_out=True)
    os.utime(path, ns=(1, 1))
    with pytest.raises(AssertionError, match='read twice'):
      _read(_config(path), tmp_path / 'cache', hold_out=True)
  assert not [p for p in (tmp_path / 'cache').iterdir() if p.name.startswith('.tmp')]


@pytest.mark.parametrize('name', ['tokens.i32', 'length.i32', 'index.i32', 'meta.json'])
@pytest.mark.parametrize('harm', ['cut', 'changed', 'gone'])
def test_a_damaged_cache_is_made_anew_with_a_warning(rng, tmp_path, caplog, name, harm):
  path = _file(tmp_path / 'a.txt', _texts(rng, 30))
  want = np.array(_read(_config(path), tmp_path / 'cache').tokens.tokens)
  (folder,) = (tmp_path / 'cache').iterdir()
  data = (folder / name).read_bytes()
  place = int(rng.integers(len(data)))
  changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
  (folder / name).unlink()
  if harm != 'gone':
    (folder / name).write_bytes(data[:-3] if harm == 'cut' else changed)
  with caplog.at_level('WARNING', 'kdjax'):
    found = _read(_config(path), tmp_path / 'cache')
  np.testing.assert_array_equal(found.tokens.tokens, want)
  assert 'is damaged' in caplog.text and 'made anew' in caplog.text
  caplog.clear()
  _read(_config(path), tmp_path / 'cache')
  assert not caplog.text


def test_a_reading_that_fails_leaves_nothing(rng, tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"text": "good film"}\n' * 400 + '{"text": null}\n')
  with pytest.raises(ValueError, match=r'a.jsonl: row 401'):
    _read(_config(path), tmp_path / 'cache')
  assert not list((tmp_path / 'cache').iterdir())


def test_no_text_and_other_frames_are_refused(tmp_path):
  (tmp_path / 'a.txt').write_text('\n\n')
  with pytest.raises(ValueError, match=r"config.data.unlabelled='.*a.txt': no text to train on$"):
    _read(_config(tmp_path / 'a.txt'), tmp_path / 'cache')
  _file(tmp_path / 'a.txt', ['good'])
  with pytest.raises(ValueError, match=r'beside what is held out .*config.data.validation'):
    _read(_config(tmp_path / 'a.txt'), tmp_path / 'cache', hold_out=True)
  for changes in (dict(validation_fraction=1.0), dict(validation_rows=0)):
    with pytest.raises(ValueError, match=r'config.data.validation_fraction'):
      _read(_config(tmp_path / 'a.txt', **changes), tmp_path / 'cache', hold_out=True)
  bare = toy.tokenizer()
  bare.backend_tokenizer.post_processor = None
  with pytest.raises(ValueError, match=r'frames a row by 0 tokens.*config.data.pack=False'):
    corpus.read(_config(tmp_path / 'a.txt'), bare, tmp_path / 'cache')
  with pytest.raises(ValueError, match=r'config.data.max_length is 64'):
    _read(_config(tmp_path / 'a.txt', max_length=64), tmp_path / 'cache')


@pytest.mark.parametrize(
  'n, fraction, most, want', [(200, 0.1, 1000, 20), (200, 0.1, 7, 7), (9, 0.01, 5, 1)]
)
def test_documents_are_trained_on_or_held_out_and_never_both(rng, n, fraction, most, want):
  texts = [str(i) for i in range(n)]
  held = []
  rest = list(corpus.part(iter(texts), fraction, most, int(rng.integers(99)), held))
  assert len(held) == want and all(texts[number] == text for number, text in held)
  assert sorted([*rest, *(text for _, text in held)], key=int) == texts
  assert held == sorted(held)
  if n <= most:
    assert rest == sorted(rest, key=int)  # neighbours stay neighbours


def test_what_is_held_out_is_a_fair_and_seeded_draw():
  def held(seed, n=60, most=6):
    out = []
    list(corpus.part((str(i) for i in range(n)), 0.5, most, seed, out))
    return [number for number, _ in out]

  assert held(3) == held(3) != held(4)
  counts = np.bincount([number for seed in range(600) for number in held(seed)], minlength=60)
  # Each is drawn with probability 1/10: 60 times of 600, within five deviations of 7.3.
  assert abs(counts - 60).max() < 37


def _peak(tmp_path, n: int) -> int:
  """Bytes that Python and numpy hold at most while a corpus of n documents is made."""
  path = tmp_path / f'{n}.parquet'
  texts = [f'{" ".join(toy.WORDS)} {toy.WORDS[i % 7]}' for i in range(n)]
  parquet.write_table(pa.table(dict(text=texts)), path, row_group_size=200)
  del texts
  tracemalloc.start()
  try:
    found = _read(_config(path), tmp_path / 'cache', hold_out=True)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert found.tokens.tokens.nbytes > 80 * n
  return peak


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
  monkeypatch.setattr(corpus, '_CHARACTERS', 1 << 13)
  monkeypatch.setattr(corpus.mapped, '_BYTES', 1 << 13)
  (tmp_path / 'warm').mkdir()
  _peak(tmp_path / 'warm', 200)  # imports
  small, large = _peak(tmp_path, 2000), _peak(tmp_path, 16000)
  # The larger one's ids alone are 1.4 MB, its text 1.5.
  assert large - small < 300_000, (small, large)
