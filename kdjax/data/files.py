"""Columns of csv, tsv, jsonl and parquet files, with errors that name file, row and field.

Rows are counted from 1 in errors; the header is not counted.
"""

import collections
import csv
import gzip
import json
import math
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from kdjax import quote

Columns = dict[str, list[Any]]

READS = ('.csv', '.tsv', '.jsonl', '.parquet')
LIMIT = 16 << 30  # bytes, about, of a table in memory: a few bytes of a file may say far more
_CELL = 64  # bytes of a small value in a list, about
_ROW = 16 << 20  # bytes of a row of csv or tsv
_BATCH = 1024  # rows of parquet unpacked at once


def read(path: str | pathlib.Path) -> Columns:
  """Column name -> values, all columns of one length of at least 1.

  csv: comma-separated with quotes; tsv: tab-separated, quotes are ordinary characters, as in GLUE's
  own files. Values of both are strings. jsonl: an object per line; a key that a line lacks is None.

  Raises:
    ValueError: no such file, unknown extension, malformed row, repeated column or key, no rows,
      text that is not UTF-8, more than LIMIT in memory.
  """
  path, columns, n = pathlib.Path(path), {}, 0
  for piece in pieces(path, LIMIT):
    n = extend(columns, n, piece)
    if n * len(columns) * _CELL > LIMIT:  # a table of mostly nothing
      raise ValueError(f'{path}: row {n}: {len(columns)} different fields by {n} rows')
  return columns


def pieces(path: str | pathlib.Path, limit: float = math.inf) -> Iterator[Columns]:
  """The same, some rows at a time; of jsonl, a piece has the fields of its own rows.

  limit: bytes, about, of all pieces together.

  Raises:
    ValueError: as read, when the reading comes there.
  """
  path, none = pathlib.Path(path), True
  if not path.is_file():
    raise ValueError(f'{path}: no such file')
  if path.suffix not in READS:
    raise ValueError(f'{path}: unknown extension {path.suffix!r}; it is one of {", ".join(READS)}')
  for piece in blocks(path, limit):
    none = False
    yield piece
  if none:
    raise ValueError(f'{path}: no rows')


def blocks(path: pathlib.Path, limit: float = math.inf) -> Iterator[Columns]:
  """The same of a file that may have no rows, and, all but parquet, be compressed: a.csv.gz."""
  for piece in _READERS[kind(path)](path, limit):
    if piece and len(next(iter(piece.values()))):
      yield piece


def kind(path: pathlib.Path) -> str:
  """'.txt' of a.txt and of a.txt.gz; '' of parquet in .gz."""
  found = pathlib.Path(path.stem).suffix if path.suffix == '.gz' else path.suffix
  return '' if path.suffix == '.gz' and found == '.parquet' else found


def extend(columns: Columns, n: int, piece: Columns) -> int:
  """Put more rows behind n; what one of them lacks is None. Their number."""
  more = n + len(next(iter(piece.values())))
  for name in dict.fromkeys((*columns, *piece)):
    if name not in columns:
      columns[name] = [None] * n
    columns[name] += piece[name] if name in piece else [None] * (more - n)
  return more


def _csv(path: pathlib.Path, limit: float) -> Iterator[Columns]:
  del limit  # text is not larger than its file
  import pyarrow as pa
  from pyarrow import csv as arrow

  tabs = kind(path) == '.tsv'
  parse = arrow.ParseOptions(
    delimiter='\t' if tabs else ',',
    quote_char=False if tabs else '"',
    newlines_in_values=not tabs,
  )
  try:
    names = _header(path, parse.delimiter, tabs)
  except csv.Error as error:
    raise ValueError(f'{path}: header: {quote.error(error)}') from error
  if not names:
    return
  if '\0' in ''.join(names):
    raise ValueError(f'{path}: header: NUL bytes, as UTF-16 has them: save the file as UTF-8')
  _distinct(path, names)
  try:
    reader = arrow.open_csv(
      path,
      # One thread: only then does an error know its row.
      read_options=arrow.ReadOptions(use_threads=False, block_size=_ROW),
      parse_options=parse,
      # Everything is text: a label 01 is not 1, a text 'null' is not missing.
      convert_options=arrow.ConvertOptions(
        column_types={name: pa.string() for name in names}, strings_can_be_null=False
      ),
    )
    found = reader.schema.names
    if found != names:  # then its columns were not all taken for text
      raise ValueError(f'{path}: header: is it {quote.names(names)} or {quote.names(found)}?')
    for batch in reader:
      yield {name: batch.column(name).to_pylist() for name in names}
  except UnicodeDecodeError as error:  # rows that are not UTF-8 are an ArrowInvalid
    raise ValueError(f'{path}: header: {quote.error(error)}: save the file as UTF-8') from error
  except (pa.ArrowException, MemoryError) as error:
    # Arrow counts the header as row 1.
    said = re.sub(r'Row #(\d+)', lambda match: f'row {int(match[1]) - 1}', quote.error(error))
    if 'straddling' in said:
      said = f'a row is longer than {_ROW >> 20} MB: is a quote left open?'
    if 'invalid UTF8' in said:
      said += ': save the file as UTF-8'
    raise ValueError(f'{path}: {said}') from error


def _header(path: pathlib.Path, delimiter: str, tabs: bool) -> list[str]:
  with _open(path, 'rt', encoding='utf-8-sig', errors='replace', newline='') as file:
    quoting = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    for names in csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True):
      if names:  # Arrow passes over empty lines too
        return names
  return []


def _open(path: pathlib.Path, *how, **options):
  return (gzip.open if path.suffix == '.gz' else open)(path, *how, **options)


def _objects(path: pathlib.Path, limit: float) -> Iterator[Columns]:
  del limit
  rows, names = [], {}
  with _open(path, 'rb') as file:
    for number, line in enumerate(file, 1):
      try:
        text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
        if not text.strip():
          continue
        row = _object(text)
      except UnicodeError as error:
        said = f'{quote.error(error)}: save the file as UTF-8'
        raise ValueError(f'{path}: row {number}: not UTF-8: {said}') from error
      except (ValueError, RecursionError) as error:  # also integers of thousands of digits
        raise ValueError(f'{path}: row {number}: not JSON: {quote.error(error)}') from error
      if not isinstance(row, dict):
        raise ValueError(f'{path}: row {number}: {type(row).__name__}, not an object of fields')
      rows.append(row)
      names |= dict.fromkeys(row)
      if len(rows) * len(names) * _CELL > LIMIT:
        raise ValueError(f'{path}: row {number}: {len(names)} different fields by {len(rows)} rows')
      if len(rows) == _BATCH:
        yield _turned(rows, names)
        rows, names = [], {}
  yield _turned(rows, names)


def _turned(rows: list[dict], names: Iterable[str]) -> Columns:
  return {name: [row.get(name) for row in rows] for name in names}


def _object(text: str) -> Any:
  row = json.loads(text, object_pairs_hook=_once)
  if '\\u' in text:  # half a character of UTF-16 may be written so, and no tokenizer takes it
    json.dumps(row, ensure_ascii=False).encode()
  return row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  out = dict(pairs)
  if len(out) < len(pairs):
    names = collections.Counter(name for name, _ in pairs)
    raise ValueError(f'field {quote.value(names.most_common(1)[0][0])} occurs more than once')
  return out


def _parquet(path: pathlib.Path, limit: float) -> Iterator[Columns]:
  from pyarrow import parquet

  size = 0
  try:
    with parquet.ParquetFile(path) as file:
      names = file.schema_arrow.names
      # Without columns there is nothing in a row, and no end of rows.
      for batch in file.iter_batches(_BATCH) if len(set(names)) == len(names) > 0 else ():
        size += batch.nbytes + _CELL * batch.num_rows * len(names)
        if size > limit:
          raise ValueError(f'more than {limit} bytes in memory: split the file')
        yield {n: column.to_pylist() for n, column in zip(names, batch.columns, strict=True)}
  except Exception as error:  # thrift, arrow, each codec and each type fail in ways of their own
    raise ValueError(f'{path}: not a readable parquet file: {quote.error(error)}') from error
  _distinct(path, names)


def _distinct(path: pathlib.Path, names: list[str]) -> None:
  twice = sorted(name for name, count in collections.Counter(names).items() if count > 1)
  if twice:
    raise ValueError(f'{path}: columns {quote.value(twice)} occur more than once')


_READERS = {'.csv': _csv, '.tsv': _csv, '.jsonl': _objects, '.parquet': _parquet}
