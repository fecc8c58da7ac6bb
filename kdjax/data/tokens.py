"""Text to fixed arrays of token ids: once, and kept on disk."""

import hashlib
import json
import logging
import pathlib
import re
import shutil
from typing import NamedTuple

import numpy as np

from kdjax.data import mapped
from kdjax.data import table as tables

_log = logging.getLogger('kdjax')
_CHUNK = 10_000
_FORMAT = 2  # raise it when the arrays change their meaning: older caches are then not found
# Rows of the table that no text reaches: [unused7], <unused7>, madeupword0001.
_UNUSED = re.compile(r'[\[<]unused[_ -]?\d*[\]>]|madeupword\d+', re.I)


class Tokens(NamedTuple):
  """Token ids of n texts, or pairs of texts, padded on the right.

  tokens: i32[n, L]; segments: i32[n, L], 1 in the second text where the tokenizer says so;
  length: i32[n], real positions, special tokens included.
  """

  tokens: np.ndarray
  segments: np.ndarray
  length: np.ndarray


def tokenise(table: tables.Table, tokenizer, max_length: int, cache=None) -> Tokens:
  """A table's text as ids; L = max_length, longer rows are cut (pairs: the longer text first).

  Args:
    tokenizer: of transformers, called as tokenizer(first, second, ...).
    cache: directory (path or str) of earlier results, or None. A result is found again by the
      tokenizer, max_length and the texts; a damaged one is made anew, with a warning.

  Raises:
    ValueError: max_length beyond what the tokenizer's model reads, or without room for text; no
      padding token.
  """
  check(tokenizer, max_length, pair=table.second is not None)
  path = None
  if cache:
    path = pathlib.Path(cache) / fingerprint(table, tokenizer, max_length)
    found = _load(path, len(table.first), max_length, tokenizer)
    if found is not None:
      _log.info('Tokens of %s rows read from %s.', f'{len(table.first):,}', path)
      return found
    shutil.rmtree(path, ignore_errors=True)  # what is there, if anything, is damaged
  out = _tokenise(table, tokenizer, max_length)
  if path is not None and len(out.length):
    with mapped.writing(path) as writer:
      writer.add(**out._asdict())
  return out


def fingerprint(table: tables.Table, tokenizer, max_length: int) -> str:
  """Hex digest of all that decides the ids: tokenizer, max_length, texts."""
  digest = hashlib.sha256()

  def add(text: str) -> None:
    data = text.encode('utf-8', 'surrogatepass')
    digest.update(len(data).to_bytes(8, 'little') + data)  # 'ab', 'c' is not 'a', 'bc'

  add(json.dumps([_FORMAT, max_length, tokenizer.pad_token_id, table.second is not None]))
  add(_definition(tokenizer))
  for texts in (table.first, table.second or []):
    for text in texts:
      add(text)
  return digest.hexdigest()


def ordinary(tokenizer, vocab_size: int) -> np.ndarray:
  """bool[V]: ids that augmentation may change or write.

  Not special, not one of the [unused] rows, and not beyond the tokenizer's own vocabulary (tables
  are often padded to a round size).

  Raises:
    ValueError: the tokenizer has ids that a table of vocab_size rows lacks.
  """
  vocabulary = tokenizer.get_vocab()
  top = max(vocabulary.values())
  if top >= vocab_size:
    raise ValueError(
      f"the tokenizer's ids go up to {top}, the model's embedding table has {vocab_size} rows: "
      'they do not belong together'
    )
  out = np.zeros(vocab_size, bool)
  out[[i for token, i in vocabulary.items() if not _UNUSED.fullmatch(token)]] = True
  out[list(tokenizer.all_special_ids)] = False
  added = getattr(tokenizer, 'added_tokens_decoder', {})
  out[[i for i, token in added.items() if token.special]] = False
  return out


def same_ids(a, b) -> str:
  """'' when two tokenizers give every token the same id; else a sentence on where they differ."""
  of_a = {i: token for token, i in a.get_vocab().items()}
  of_b = {i: token for token, i in b.get_vocab().items()}
  differ = [i for i in sorted(of_a.keys() | of_b.keys()) if of_a.get(i) != of_b.get(i)]
  if differ:
    i = differ[0]
    return (
      f'the tokenizers disagree on {len(differ):,} of {max(len(of_a), len(of_b)):,} token ids; '
      f'id {i} is {of_a.get(i)!r} in one and {of_b.get(i)!r} in the other'
    )
  for role in ('pad', 'cls', 'sep', 'mask', 'unk'):
    i, j = (getattr(tokenizer, f'{role}_token_id', None) for tokenizer in (a, b))
    if i is not None and j is not None and i != j:
      return f'the tokenizers disagree on the {role} token: id {i} in one, id {j} in the other'
  return ''


def check(tokenizer, max_length: int, pair: bool = False) -> None:
  """ValueError unless rows of this length suit the tokenizer and its model."""
  most = tokenizer.model_max_length  # 1e30 where the tokenizer's files do not say
  if max_length > most:
    raise ValueError(
      f'config.data.max_length is {max_length}, and the model of this tokenizer reads {most} tokens'
    )
  least = tokenizer.num_special_tokens_to_add(pair=pair) + 1 + pair
  if max_length < least:
    raise ValueError(
      f'config.data.max_length is {max_length}; special tokens and one token of text need {least}'
    )
  if tokenizer.pad_token_id is None:
    raise ValueError('the tokenizer has no padding token: set tokenizer.pad_token before')


def _tokenise(table: tables.Table, tokenizer, max_length: int) -> Tokens:
  out, cut = encode(table, tokenizer, max_length)
  _log.info(
    'Tokenised %s rows; %.2f %% were longer than %d tokens and are cut.',
    f'{len(out.length):,}', 100 * cut / max(len(out.length), 1), max_length,
  )  # fmt: skip
  return out


def encode(table: tables.Table, tokenizer, max_length: int) -> tuple[Tokens, int]:
  """(a table's text as ids, rows that were cut), without any check or cache."""
  n = len(table.first)
  tokens = np.full((n, max_length), tokenizer.pad_token_id, np.int32)
  segments = np.zeros((n, max_length), np.int32)
  length = np.zeros(n, np.int32)
  cut = 0
  for start in range(0, n, _CHUNK):
    rows = slice(start, start + _CHUNK)
    # padding and truncation are given at each call: files of tokenizers come with their own.
    out = tokenizer(
      table.first[rows],
      None if table.second is None else table.second[rows],
      truncation=True,
      max_length=max_length,
      padding=False,
      return_token_type_ids=True,
      return_attention_mask=False,
    )
    for i, ids in enumerate(out['input_ids'], start):
      length[i] = len(ids)
      tokens[i, : len(ids)] = ids
    # Some tokenizers know no segments and give none, whatever they are asked.
    for i, ids in enumerate(out.get('token_type_ids', []), start):
      segments[i, : len(ids)] = ids
    cut += sum(bool(encoding.overflowing) for encoding in out.encodings or [])
  return Tokens(tokens, segments, length), cut


def _definition(tokenizer) -> str:
  """The tokenizer as text; without the padding and truncation that calls leave behind in it."""
  backend = getattr(tokenizer, 'backend_tokenizer', None)
  if backend is None or not hasattr(backend, 'to_str'):
    return json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
  parts = json.loads(backend.to_str())
  return json.dumps({k: v for k, v in parts.items() if k not in ('padding', 'truncation')})


def _load(path: pathlib.Path, n: int, max_length: int, tokenizer) -> Tokens | None:
  """The arrays under a path; None where there are none or they are not whole."""
  ids = 1 + max(tokenizer.get_vocab().values())  # there may be gaps between them
  bounds = dict(tokens=(0, ids), segments=(0, 2), length=(1, max_length + 1))
  found, _ = mapped.load(path, bounds) or (None, None)
  if found is None:
    return None
  shapes = {name: array.shape for name, array in found.items()}
  if shapes != dict(tokens=(n, max_length), segments=(n, max_length), length=(n,)):
    _log.warning('Token cache %s is damaged (arrays %s) and made anew.', path, shapes)
    return None
  return Tokens(**found)
