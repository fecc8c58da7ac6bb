"""Predictions beside the rows of a file: read in blocks, written in parts, resumed after a kill.

A part is a block of rows with its predictions, <out>.parts/000000, written aside and renamed. What
is there is not computed again, and a row's block is the same in every attempt: so is every byte of
the finished file, into which the parts go one after another.
"""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdjax import hosts, log, progress, quote, report
from kdjax.data import blocks, files, sources

PART = 2048  # rows computed between two saves: what a kill can cost


class Rows(NamedTuple):
  """What is predicted.

  columns: written beside the predictions. n: rows. said: what decides them, as JSON holds it.
  read: () -> (columns, first texts or images, second texts or None), PART rows at a time.
  like: the file that they are of.
  """

  columns: tuple[str, ...]
  n: int
  said: Any
  read: Callable[[], Iterator[tuple[files.Columns, Any, list[str] | None]]]
  like: pathlib.Path | None = None


def of_file(
  path: pathlib.Path, text: str, pair: str, flags: tuple[str, str] = ('--text', '--pair')
) -> Rows:
  """The rows of a csv, tsv, jsonl or parquet file, all of which are read once, and checked.

  flags: what names the columns of text and pair, for errors; '': nothing does.

  Raises:
    ValueError: naming the file, and row and column: what cannot be read, is no text, or missing.
  """
  wanted = (text, pair) if pair else (text,)

  def read():
    done = 0
    for block in blocks.read(path, PART):
      for flag, name in zip(flags, wanted, strict=False):
        if name not in block:
          said = f'{flag} is one of' if flag else 'it has'
          raise ValueError(f'{path}: no column {quote.value(name)}: {said} {quote.names(block)}')
      each = [sources.strings(block[c], f'{path}: column {c!r}', done + 1) for c in wanted]
      done += len(each[0])
      yield block, each[0], each[1] if pair else None

  names, n = {}, 0
  with progress.Line(f'{path.name}, checked', unit='row', shown=hosts.first()) as line:
    for block, first, _ in read():
      names |= dict.fromkeys(block)
      n += len(first)
      line.update(len(first))
  found = path.stat()
  said = [str(path.resolve()), found.st_size, found.st_mtime_ns, list(wanted)]
  return Rows(tuple(names), n, said, read, path)


def of_table(table: sources.Table) -> Rows:
  """The rows of a split: their numbers, and their text."""
  images = isinstance(table.first, np.ndarray)
  names = ('index', *(() if images else ('text', 'pair') if table.second else ('text',)))

  def read():
    for start in range(0, len(table.first), PART):
      own = slice(start, start + PART)
      each = table.index[own].tolist(), table.first[own], table.second and table.second[own]
      yield dict(zip(names, each, strict=False)), *each[1:]

  said = table.first.tobytes() if images else repr((table.first, table.second)).encode()
  return Rows(names, len(table.first), hashlib.sha256(said).hexdigest(), read)


def predict(clf, rows: Rows, out: pathlib.Path, prefix: str = '', said: Any = None) -> None:
  """Write the rows with what a model says of each; the file is whole or not there.

  Of several hosts all compute, and the first one writes.

  Args:
    clf: predict.Classifier. out: its extension is the format.
    prefix: of the names of the new columns.
    said: what decides the predictions beside the rows, as JSON holds it: the model, say. Parts of
      an attempt that was asked something else are thrown away.

  Raises:
    ValueError: a column of the file has the name of a new one, another extension, or what the
      format cannot hold, before anything is computed where that can be seen.
  """
  added = new_columns(clf, prefix)
  if twice := [name for name in added if name in rows.columns]:
    raise ValueError(
      f'{out}: {quote.names(twice)} are columns of the data already: give the new ones other names '
      'by --prefix of python -m kdjax.predict'
    )
  if rows.like and out.resolve() == rows.like.resolve():
    raise ValueError(f'--out={out} is the data itself: name another file')
  form = blocks.Writer(out, (*rows.columns, *added), rows.like)
  parts = out.with_name(out.name + '.parts')
  asked = [rows.said, said, PART, list(added), out.suffix]
  done = hosts.agree(lambda: _begun(parts, asked, -(-rows.n // PART)))
  if done:
    log.logger.info(f'{out}: going on from row {done * PART + 1:,}')
  try:
    if not done:
      form.check((block for block, *_ in rows.read()), PART)
    _fill(clf, rows, form, parts, done, added, out)
  except blocks.Unfit:
    if hosts.first():
      shutil.rmtree(parts)  # the same command would come to the same end
    raise
  if hosts.first():
    shutil.rmtree(parts)
  hosts.meet()


def _fill(clf, rows: Rows, form: blocks.Writer, parts, done: int, added, out) -> None:
  """The parts that are not there yet, and the file that all of them make."""
  begun = min(done * PART, rows.n)
  with progress.Line(out.name, rows.n, begun, 'row', shown=hosts.first()) as line:
    for number, (columns, first, second) in enumerate(rows.read()):
      if number < done:
        continue
      found = clf.rows(first, second)
      if hosts.first():
        said_of = dict(zip(added, _values(clf, found), strict=True))
        _aside(
          parts / f'{number:06}',
          lambda p, c=columns | said_of, n=number: form.part(c, p, n * PART + 1),
        )
      line.update(len(first))
  if hosts.first():
    each = [parts / f'{k:06}' for k in range(-(-rows.n // PART))]
    _aside(out, lambda p: form.join(each, p))


def new_columns(clf, prefix: str = '') -> tuple[str, ...]:
  """prediction, and p_<class> of each class; of regression, score."""
  if clf.kind == 'regression':
    return (f'{prefix}score',)
  return (f'{prefix}prediction', *(f'{prefix}p_{name}' for name in clf.labels))


def _values(clf, found: np.ndarray) -> list[Sequence]:
  """Their values: six digits, as a csv of them has."""
  if clf.kind == 'regression':
    return [_six(found)]
  if clf.kind == 'classes':
    decided = [clf.labels[k] for k in found.argmax(1)]
  else:
    decided = [
      '|'.join(name for name, p in zip(clf.labels, row, strict=True) if p > 0.5) for row in found
    ]
  return [decided, *map(_six, found.T)]


def _six(values: np.ndarray) -> list[float]:
  return [float(f'{v:.6g}') for v in values]


def _begun(parts: pathlib.Path, asked: Any, most: int) -> int:
  """Parts that an earlier attempt has left, from the first on without a gap."""
  path, asked = parts / 'asked.json', json.loads(json.dumps(asked))
  if parts.exists():
    try:
      same = json.loads(path.read_text(encoding='utf8')) == asked
    except (OSError, ValueError):
      same = False
    if same:
      return next((k for k in range(most) if not (parts / f'{k:06}').exists()), most)
    log.logger.info(f'{parts} is of another command: it begins anew')
    shutil.rmtree(parts)
  report.writable(parts, '--out')
  report.write_json(path, asked)
  return 0


def _aside(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
  spare = path.with_name(path.name + '.tmp')
  try:
    write(spare)
    with spare.open('rb') as file:
      os.fsync(file.fileno())  # else a machine that fails may leave the name, and not the rows
    spare.replace(path)
  finally:
    spare.unlink(missing_ok=True)
