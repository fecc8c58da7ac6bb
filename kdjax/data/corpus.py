"""Unlabelled text as rows of token ids on disk, made once, whatever its size.

Text is read as a stream, a block of documents at a time, and its ids go straight to files that are
mapped into memory afterwards: neither reading nor training holds more than a few blocks.
"""

import json
import logging
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from kdjax import progress, quote
from kdjax.data import mapped, streams
from kdjax.data import table as tables
from kdjax.data import tokens as ids

_log = logging.getLogger('kdjax')
BLOCK = 1 << 20  # rows shuffled together: batches.Dataset.block
_CHARACTERS = 1 << 20  # tokenised together
_FORMAT = 1  # raise it when the arrays change their meaning: older caches are then not found


class Corpus(NamedTuple):
  """Rows on disk.

  tokens: ids, mapped files; segments that are all 0 are not stored. index: i32[n], 0, 1, 2, ...
  held: documents that were held out, as a table without labels; None where that was not asked.
  origin: a sentence for logs.
  """

  tokens: ids.Tokens
  index: np.ndarray
  held: tables.Table | None
  origin: str


def read(
  c,
  tokenizer,
  cache,
  also: tables.Table | None = None,
  hold_out: bool = False,
  pair: str = '',
) -> Corpus:
  """The text that config.data.unlabelled names.

  With c.pack, documents are joined by the separator and cut into windows of full length, framed by
  the tokenizer's own first and last token; the last short one is dropped, unless it is all there
  is. Without, each document is a row, cut at c.max_length.

  Args:
    c: config.data: unlabelled, text, max_length, pack; with hold_out also seed, validation_rows
      and validation_fraction.
    cache: directory of earlier results. One is found again by tokenizer, max_length, pack, and
      names, sizes and times of the files (a hub data set: its name alone); a damaged one is made
      anew, with a warning.
    also: rows that follow those of the corpus.
    hold_out: keep some documents back, for scores.
    pair: a column of second texts; then c.pack must be False.

  Raises:
    ValueError: anything wrong with the text (streams.documents); no text; a tokenizer that does
      not frame a row by two tokens.
  """
  ids.check(tokenizer, c.max_length)
  path = pathlib.Path(cache) / f'corpus-{fingerprint(c, tokenizer, also, hold_out, pair)}'
  found = _load(path, tokenizer, c.max_length)
  if found is None:
    shutil.rmtree(path, ignore_errors=True)  # what is there, if anything, is damaged
    _make(path, c, tokenizer, also, hold_out, pair)
    found = _load(path, tokenizer, c.max_length)
    if found is None:
      raise OSError(f'{path} does not read back as it was written')
  _log.info('%s In %s.', found.origin, path)
  return found


def fingerprint(c, tokenizer, also: tables.Table | None, hold_out: bool, pair: str = '') -> str:
  """Hex digest of all that decides the rows; of files, names, sizes and times."""
  files = [
    (str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in streams.find(c.unlabelled)
  ]
  what = [_FORMAT, c.unlabelled if not files else '', files, c.text, bool(c.pack)]
  what += [pair] if pair else []
  what += [c.seed, c.validation_fraction, c.validation_rows] if hold_out else []
  none = tables.Table([json.dumps(what)], None, np.zeros(0), np.zeros(0))
  texts = [ids.fingerprint(t, tokenizer, c.max_length) for t in (none, also) if t is not None]
  return '-'.join(text[:24] for text in texts)


def windows(
  documents: Iterable[list[list[int]]], first: int, last: int, length: int
) -> Iterator[np.ndarray]:
  """Blocks of documents, as ids -> blocks i32[k, length] of first, length - 2 ids, last.

  Documents are joined by `last`, the separator. What does not fill a window is dropped; where not
  one is filled, it is a row of its own, [1, short].
  """
  size, rest, none, begun = length - 2, np.zeros(0, np.int32), True, False
  for block in documents:
    parts = [rest]
    for document in block:
      parts += [np.array([last] * begun + document, np.int32)]
      begun = True
    flat = np.concatenate(parts)
    whole = len(flat) // size
    if whole:
      none = False
      yield _framed(flat[: whole * size].reshape(whole, size), first, last)
    rest = flat[whole * size :]
  if none and len(rest):
    yield _framed(rest[None], first, last)


def part(
  documents: Iterable[str], fraction: float, most: int, seed: int, held: list
) -> Iterator[str]:
  """The documents that are trained on; the others are put into `held`, as (number, text).

  Held out is a fair draw of a share of them, `most` at most, found in one pass over a stream of
  unknown length (reservoir sampling): no more than `most` documents are kept in memory.
  """
  rng = np.random.default_rng(seed)
  kept, n = [], -1
  for n, text in enumerate(documents):
    if n < most:
      kept.append((n, text))
      continue
    place = rng.integers(n + 1)
    if place < most:
      (_, text), kept[place] = kept[place], (n, text)
    yield text
  count = min(most, max(1, round(fraction * (n + 1))))
  chosen = set(rng.permutation(len(kept))[:count].tolist())
  held += sorted(pair for place, pair in enumerate(kept) if place in chosen)
  for _, text in sorted(pair for place, pair in enumerate(kept) if place not in chosen):
    yield text


def _make(path: pathlib.Path, c, tokenizer, also, hold_out: bool, pair: str) -> None:
  if hold_out and not (0 < c.validation_fraction < 1 <= c.validation_rows):
    raise ValueError(
      f'config.data.validation_fraction={c.validation_fraction} must be in (0, 1) and '
      f'validation_rows={c.validation_rows} at least 1'
    )
  held: list[tuple[int, str]] = []
  names = ('tokens', 'length', *(['segments'] if pair or (also and also.second) else []))
  with mapped.writing(path) as writer:

    def add(rows: ids.Tokens) -> None:
      index = np.arange(writer.rows, writer.rows + len(rows.length))
      writer.add(index=index, **{name: getattr(rows, name) for name in names})

    found = streams.documents(c.unlabelled, c.text, pair)
    line = progress.Line('unlabelled text', unit='document')
    texts = line.each(found)
    trained = part(texts, c.validation_fraction, c.validation_rows, c.seed, held)
    for rows in _rows(_blocks(trained if hold_out else texts), c, tokenizer):
      add(rows)
    if not writer.rows:
      less = ' beside what is held out for scores (or name config.data.validation)' * hold_out
      raise ValueError(f'config.data.unlabelled={c.unlabelled!r}: no text to train on{less}')
    if also:
      add(ids.tokenise(also, tokenizer, c.max_length, path.parent))
    kind = 'windows' if c.pack else 'rows'
    origin = f'{line.n:,} documents of {c.unlabelled} in {kind} of {c.max_length} tokens'
    origin += f', {len(held):,} held out' * hold_out
    origin += f', and {len(also.first):,} rows of the task' if also else ''
    writer.note = dict(held=held if hold_out else None, origin=f'{origin}: {writer.rows:,} rows.')


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
  """Documents in blocks of about equal size: a thousand of them may be lines, or books."""
  block, size = [], 0
  for text in texts:
    block.append(text)
    size += sum(map(len, text))  # of a pair, both
    if size >= _CHARACTERS:
      yield block
      block, size = [], 0
  if block:
    yield block


def _rows(blocks: Iterable[list[str]], c, tokenizer) -> Iterator[ids.Tokens]:
  if not c.pack:
    for block in blocks:
      yield ids.encode(_rows_of(block), tokenizer, c.max_length)[0]
    return
  frame = tokenizer('')['input_ids']
  if len(frame) != 2:
    raise ValueError(
      f'the tokenizer frames a row by {len(frame)} tokens {frame}, and windows are framed by two: '
      'set config.data.pack=False'
    )

  def encoded():
    for block in blocks:
      # Not verbose: it would warn of documents that are longer than the model reads.
      out = tokenizer(
        block, add_special_tokens=False, truncation=False, padding=False,
        return_attention_mask=False, return_token_type_ids=False, verbose=False,
      )  # fmt: skip
      yield [document for document in out['input_ids'] if document]

  for tokens in windows(encoded(), *frame, c.max_length):
    length = np.full(len(tokens), tokens.shape[1], np.int32)
    short = c.max_length - tokens.shape[1]
    tokens = np.pad(tokens, ((0, 0), (0, short)), constant_values=tokenizer.pad_token_id)
    yield ids.Tokens(tokens, np.zeros_like(tokens), length)


def _framed(body: np.ndarray, first: int, last: int) -> np.ndarray:
  ends = (np.full((len(body), 1), i, np.int32) for i in (first, last))
  return np.concatenate([next(ends), body, next(ends)], 1)


def _rows_of(block: list) -> tables.Table:
  """Texts, or pairs of them."""
  if isinstance(block[0], str):
    return _table(block)
  first, second = zip(*block, strict=True)
  return _table(list(first))._replace(second=list(second))


def _table(texts: list[str], index=None) -> tables.Table:
  n = len(texts)
  index = np.arange(n) if index is None else index
  return tables.Table(texts, None, np.full(n, -1, np.int32), np.asarray(index, np.int32))


def _load(path: pathlib.Path, tokenizer, max_length: int) -> Corpus | None:
  top = max(tokenizer.get_vocab().values()) + 1
  bounds = dict(tokens=(0, top), segments=(0, 1 << 16), length=(1, max_length + 1))
  bounds['index'] = 0, 1 << 31
  found = mapped.load(path, bounds)
  if found is None:
    return None
  arrays, note = found
  try:
    index, shape = arrays.pop('index'), arrays['tokens'].shape
    rows = ids.Tokens(**dict(segments=np.broadcast_to(np.int32(0), shape)) | arrays)
    if [a.shape for a in rows] != [shape, shape, shape[:1]] or shape != (len(index), max_length):
      raise ValueError(f'shapes {[a.shape for a in rows]} for {len(index)} rows of {max_length}')
    held, origin = note['held'], note['origin']
    if held is not None:
      held = _table([str(text) for _, text in held], [number for number, _ in held])
  except (ValueError, KeyError, TypeError) as error:
    _log.warning('Token cache %s is damaged (%s) and made anew.', path, quote.error(error))
    return None
  return Corpus(rows, index, held, origin)
