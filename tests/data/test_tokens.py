import logging
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from kdjax.data import mapped, sources, tokens

_WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '[unused0]', '[unused1]',
          *'abcdefghij', '##k', '##l']  # fmt: skip


def _tokenizer(words=_WORDS, **changes):
  """A small BERT tokenizer; with padding and truncation baked in, as some published ones have."""
  import tokenizers
  import transformers
  from tokenizers import models, pre_tokenizers, processors

  ids = {word: i for i, word in enumerate(words)}
  backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token='[UNK]'))
  backend.pre_tokenizer = pre_tokenizers.Whitespace()
  backend.post_processor = processors.TemplateProcessing(
    single='[CLS] $A [SEP]',
    pair='[CLS] $A [SEP] $B:1 [SEP]:1',
    special_tokens=[(word, ids[word]) for word in ('[CLS]', '[SEP]')],
  )
  backend.enable_truncation(3)
  backend.enable_padding(length=40, pad_id=ids['j'], direction='left')
  fields = dict(
    pad_token='[PAD]', unk_token='[UNK]', cls_token='[CLS]', sep_token='[SEP]',
    mask_token='[MASK]', model_max_length=48, padding_side='left',
  )  # fmt: skip
  return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **(fields | changes))


def _table(first, second=None):
  n = len(first)
  return sources.Table(first, second, np.zeros(n, np.int32), np.arange(n, dtype=np.int32))


def _random(rng, n, pair):
  def text():
    return ' '.join(rng.choice(list('abcdefghij'), rng.integers(0, 14)))

  return _table([text() for _ in range(n)], [text() for _ in range(n)] if pair else None)


def test_ids_are_padded_on_the_right_whatever_the_tokenizer_has_baked_in():
  out = tokens.tokenise(_table(['a b', 'c', '']), _tokenizer(), 6, None)
  want = [[2, 7, 8, 3, 0, 0], [2, 9, 3, 0, 0, 0], [2, 3, 0, 0, 0, 0]]
  np.testing.assert_array_equal(out.tokens, want)
  np.testing.assert_array_equal(out.length, [4, 3, 2])
  assert not out.segments.any()
  assert {array.dtype for array in out} == {np.dtype(np.int32)}


def test_pairs_have_segments_and_the_longer_text_is_cut():
  out = tokens.tokenise(_table(['a b c d e f', 'a'], ['g', 'h']), _tokenizer(), 6, None)
  np.testing.assert_array_equal(out.tokens, [[2, 7, 8, 3, 13, 3], [2, 7, 3, 14, 3, 0]])
  np.testing.assert_array_equal(out.segments, [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]])


def test_chunks_change_nothing(monkeypatch, rng):
  table = _random(rng, 23, pair=True)
  whole = tokens.tokenise(table, _tokenizer(), 12, None)
  monkeypatch.setattr(tokens, '_CHUNK', 5)
  for a, b in zip(whole, tokens.tokenise(table, _tokenizer(), 12, None), strict=True):
    np.testing.assert_array_equal(a, b)


def test_the_share_of_cut_rows_is_logged(caplog):
  with caplog.at_level(logging.INFO, 'kdjax'):
    tokens.tokenise(_table(['a b c d', 'a b c', 'a', 'b']), _tokenizer(), 5, None)
  assert 'Tokenised 4 rows; 25.00 % were longer than 5 tokens' in caplog.text


@pytest.mark.parametrize('pair', [False, True])
def test_a_second_reading_comes_from_the_cache(tmp_path, rng, monkeypatch, pair):
  table = _random(rng, 9, pair)
  first = tokens.tokenise(table, _tokenizer(), 12, tmp_path)

  def never(*args):
    raise AssertionError('tokenised twice')

  monkeypatch.setattr(tokens, '_tokenise', never)
  # Another object, already called with other settings, is the same tokenizer.
  other = _tokenizer()
  other(['a'], truncation=True, max_length=7)
  for a, b in zip(first, tokens.tokenise(table, other, 12, str(tmp_path)), strict=True):
    np.testing.assert_array_equal(a, b)
    assert a.dtype == b.dtype


def test_tokenizer_length_and_texts_each_have_a_place_of_their_own():
  table = _table(['ab', 'c'])
  prints = {
    tokens.fingerprint(*args)
    for args in (
      (table, _tokenizer(), 12),
      (table, _tokenizer(), 13),
      (table, _tokenizer([*_WORDS, 'z']), 12),
      (table, _tokenizer(pad_token='[unused0]'), 12),
      (_table(['a', 'bc']), _tokenizer(), 12),
      (_table(['ab'], ['c']), _tokenizer(), 12),
    )
  }
  assert len(prints) == 6
  assert tokens.fingerprint(table, _tokenizer(), 12) in prints


def _cut_short(path):
  path.write_bytes(path.read_bytes()[:-8])


def _flip(path):
  data = bytearray(path.read_bytes())
  data[-4] ^= 1
  path.write_bytes(bytes(data))


def _empty(path):
  path.write_bytes(b'')


@pytest.mark.parametrize('damage', [_cut_short, _flip, _empty, pathlib.Path.unlink])
@pytest.mark.parametrize('name', ['tokens.i32', 'length.i32', 'meta.json'])
def test_a_damaged_cache_is_made_anew_with_a_warning(tmp_path, rng, caplog, damage, name):
  table = _random(rng, 5, pair=False)
  want = tokens.tokenise(table, _tokenizer(), 12, tmp_path)
  (place,) = tmp_path.iterdir()
  damage(place / name)
  with caplog.at_level(logging.WARNING, 'kdjax'):
    got = tokens.tokenise(table, _tokenizer(), 12, tmp_path)
  assert 'damaged' in caplog.text
  for a, b in zip(want, got, strict=True):
    np.testing.assert_array_equal(a, b)
  caplog.clear()
  tokens.tokenise(table, _tokenizer(), 12, tmp_path)
  assert not caplog.records
  assert list(tmp_path.iterdir()) == [place]


def test_a_process_that_is_killed_in_the_midst_of_it_leaves_nothing_that_is_taken_for_tokens(
  tmp_path,
):
  code = """
import os, pathlib, signal, sys
import numpy as np
from kdjax.data import mapped, tokens
from tests.data import test_tokens as here

where = pathlib.Path(sys.argv[1])
table, tokenizer = here._random(np.random.default_rng(0), 20, pair=True), here._tokenizer()
want = tokens.tokenise(table, tokenizer, 12)
moments = [(tokens, '_tokenise', 0), *((mapped, '_file', n) for n in range(3)), (os, 'chmod', 0)]
for owner, name, after in moments:  # before each thing that it does
  child = os.fork()
  if not child:
    call, left = getattr(owner, name), [after]

    def dies(*args):
      left[0] -= 1
      return call(*args) if left[0] >= 0 else os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, dies)
    tokens.tokenise(table, tokenizer, 12, where)
  _, status = os.waitpid(child, 0)
  assert os.WIFSIGNALED(status), name
  assert not [p for p in where.glob('*') if p.name[0] != '.'], name
for _ in range(2):  # made anew, then read
  got = tokens.tokenise(table, tokenizer, 12, where)
  assert all(map(np.array_equal, want, got))
print(len([p for p in where.glob('*') if p.name[0] != '.']))
"""
  done = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True, timeout=300,
    cwd=pathlib.Path(__file__).parent.parent.parent,
  )  # fmt: skip
  assert done.stdout == '1\n', done.stderr


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
  monkeypatch.setattr(mapped, '_file', lambda *args: pathlib.Path('/dev/full'))
  with pytest.raises(OSError, match='No space left'):
    tokens.tokenise(_table(['a']), _tokenizer(), 12, tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_length_without_sense_is_an_error_with_both_numbers():
  with pytest.raises(ValueError, match=r'config.data.max_length is 64, .* reads 48 tokens'):
    tokens.tokenise(_table(['a']), _tokenizer(), 64, None)
  with pytest.raises(ValueError, match=r'config.data.max_length is 4; .* need 5'):
    tokens.tokenise(_table(['a'], ['b']), _tokenizer(), 4, None)
  with pytest.raises(ValueError, match='no padding token'):
    tokens.tokenise(_table(['a']), _tokenizer(pad_token=None), 8, None)


def test_special_and_unused_ids_and_rows_beyond_the_vocabulary_are_not_ordinary():
  got = tokens.ordinary(_tokenizer(), 24)
  assert got.dtype == bool
  np.testing.assert_array_equal(np.flatnonzero(got), np.arange(7, 19))
  more = _tokenizer(extra_special_tokens=['c'])
  np.testing.assert_array_equal(np.flatnonzero(got ^ tokens.ordinary(more, 24)), [9])


def test_a_table_smaller_than_the_vocabulary_is_an_error():
  with pytest.raises(ValueError, match=r'go up to 18, .* has 18 rows'):
    tokens.ordinary(_tokenizer(), 18)


def test_tokenizers_with_the_same_ids_are_told_from_those_without():
  assert tokens.same_ids(_tokenizer(), _tokenizer()) == ''
  words = [*_WORDS, 'z']
  words[8], words[9] = words[9], words[8]
  said = tokens.same_ids(_tokenizer(), _tokenizer(words))
  assert said.startswith('the tokenizers disagree on 3 of 20 token ids')
  assert "id 8 is 'b' in one and 'c' in the other" in said
  other = _tokenizer(pad_token='[unused0]')
  assert 'disagree on the pad token: id 0 in one, id 5' in tokens.same_ids(_tokenizer(), other)
