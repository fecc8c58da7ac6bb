"""Caches: whatever is in the folder, what is read is what was written, or it is made anew."""

import json
import shutil
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from ml_collections import ConfigDict

from kdjax import answers, evaluate, net
from kdjax.data import batches, corpus, table, tokens
from tests import toy
from tests.fuzz import damage

_L = 12
_TEXTS = ['the film was good', '', 'a dull plot and it is bad', '\U0001f600 \u202e', '!?']
_SHAPES = [(5, 12), (5,), (), (12, 5), (10**12, 12), (2**62, 2**62), (-5, 12), (5, 12.0), 'x', None]
_TYPES = ['<i4', '>i4', '<i8', '<f4', '|O', '|V4', '<U5', [('a', '<i4')], 'x', 5]


@pytest.fixture(scope='module')
def tokenizer():
  return toy.tokenizer()


def _npy(header: str, data: bytes = b'') -> bytes:
  return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header.encode() + data


def _headers():
  kinds = st.tuples(st.sampled_from(_TYPES), st.sampled_from(_SHAPES), st.booleans())
  told = kinds.map(lambda k: repr(dict(descr=k[0], fortran_order=k[2], shape=k[1])))
  odd = st.sampled_from(['', '(' * 5000, '{' * 200, '1' * 5000, '__import__("os")', '{"a":', '\0'])
  return (told | odd).map(lambda header: _npy(header + '\n', bytes(240)))


def _replaced(folder, files, name, data):
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  for other, content in files.items():
    (folder / other).write_bytes(data if other == name else content)


def _harmed(files):
  """(name, bytes) of a file that data.mapped has written, damaged."""
  meta, keys = json.loads(files['meta.json']), ['arrays', '../tokens', '/etc/passwd']

  def harmed(name):
    change = damage.edited(files[name])
    if name == 'meta.json':
      fields = damage.changed(meta, keys) | damage.changed(meta['arrays'], keys).map(
        lambda arrays: meta | dict(arrays=arrays)
      )
      change |= fields.map(damage.as_json) | damage.ANY.map(damage.as_json)
    return st.tuples(st.just(name), change)

  return st.sampled_from(sorted(files)).flatmap(harmed)


def test_a_damaged_cache_of_tokens_is_made_anew(fuzz, tmp_path, tokenizer, caplog):
  none = np.zeros(len(_TEXTS), np.int32)
  rows = table.Table(_TEXTS, None, none, none)
  want = tokens.tokenise(rows, tokenizer, _L, tmp_path)
  (folder,) = tmp_path.iterdir()
  files = {path.name: path.read_bytes() for path in folder.iterdir()}

  def once(given):
    _replaced(folder, files, *given)
    caplog.clear()
    got = []
    damage.outcome(folder, lambda: got.append(tokens.tokenise(rows, tokenizer, _L, tmp_path)))
    for a, b in zip(want, got[0], strict=True):
      np.testing.assert_array_equal(a, b)
    return 'refused' if 'damaged' in caplog.text else 'read'

  fuzz(_harmed(files), once)


def test_a_damaged_corpus_is_seen_before_it_is_used(fuzz, tmp_path, tokenizer):
  text = tmp_path / 'a.txt'
  text.write_text('\n'.join(_TEXTS * 4))
  c = dict(unlabelled=str(text), text='text', max_length=_L, pack=True, seed=0)
  c = ConfigDict(c | dict(validation_fraction=0.1, validation_rows=10))
  want = corpus.read(c, tokenizer, tmp_path / 'cache', hold_out=True)
  (folder,) = (tmp_path / 'cache').iterdir()
  files = {path.name: path.read_bytes() for path in folder.iterdir()}

  def once(given):
    _replaced(folder, files, *given)
    got = []
    damage.outcome(folder, lambda: got.append(corpus._load(folder, tokenizer, _L)))
    if got[0] is None:
      return 'refused'
    for a, b in zip([*want.tokens, want.index], [*got[0].tokens, got[0].index], strict=True):
      np.testing.assert_array_equal(a, b)
    assert got[0].held.first == want.held.first
    return 'read'

  fuzz(_harmed(files), once)


def test_damaged_answers_of_a_teacher_are_asked_for_anew(fuzz, tmp_path, monkeypatch, caplog):
  n, want = 40, np.random.default_rng(0).random((40, 3)).astype(np.float32)
  asked = []

  def logits(run, params, part, *sizes):
    asked.append(len(part.index))
    return want[part.index]

  monkeypatch.setattr(answers, '_CHUNK', 16)
  monkeypatch.setattr(evaluate, 'logits', logits)
  monkeypatch.setattr(evaluate, 'compiled', lambda row, mesh: None)
  teacher = net.Net(
    lambda params, x: jnp.zeros((*x.shape, 4)),
    lambda params, e, *rest: net.Out(e[:, 0, :3], e[None]),
    None,
  )
  none = np.zeros((n, _L), np.int32)
  rows = tokens.Tokens(none, none, np.full(n, 3, np.int32))
  data = batches.Dataset(rows, none[:, 0], np.arange(n, dtype=np.int32), np.ones(5, bool))
  ask = lambda: answers.known(teacher, {}, data, 'logits', tmp_path / 'c', 8, (), None)  # noqa: E731
  ask()
  files = {path.name: path.read_bytes() for path in (tmp_path / 'c').iterdir()}
  sums = next(name for name in files if name.endswith('.json'))

  def harmed(name):
    change = damage.edited(files[name])
    if name == sums:
      change |= damage.ANY.map(damage.as_json)
    else:
      change |= _headers() | st.sampled_from([b'PK\x03\x04', b'', b'\x80\x04N.'])
    return st.tuples(st.just(name), change)

  def once(given):
    _replaced(tmp_path / 'c', files, *given)
    caplog.clear()
    asked.clear()
    np.testing.assert_array_equal(ask()['teacher_logits'], want)
    assert bool(asked) == ('damaged' in caplog.text) or given[0] == sums
    return 'refused' if asked else 'read'

  fuzz(st.sampled_from(sorted(files)).flatmap(harmed), once)
