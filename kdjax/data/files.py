"""Columns of csv, tsv, jsonl and parquet files, with errors that name file, row and field.

Rows are counted from 1 in errors; the header is not counted.
"""

import csv
import json
import pathlib
import re
from typing import Any

Columns = dict[str, list[Any]]

READS = ('.csv', '.tsv', '.jsonl', '.parquet')


def read(path: str | pathlib.Path) -> Columns:
  """Column name -> values, all columns of one length of at least 1.

  csv: comma-separated with quotes; tsv: tab-separated, quotes are ordinary characters, as in GLUE's
  own files. Values of both are strings. jsonl: an object per line; a key that a line lacks is None.

  Raises:
    ValueError: no such file, unknown extension, malformed row, repeated column, no rows.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f'{path}: no such file')
  reader = {'.csv': _csv, '.tsv': _csv, '.jsonl': _jsonl, '.parquet': _parquet}.get(path.suffix)
  if reader is None:
    raise ValueError(f'{path}: unknown extension {path.suffix!r}; it is one of {", ".join(READS)}')
  columns = reader(path)
  if not columns or not len(next(iter(columns.values()))):
    raise ValueError(f'{path}: no rows')
  return columns


def _csv(path: pathlib.Path) -> Columns:
  import pyarrow as pa
  from pyarrow import csv as arrow

  tabs = path.suffix == '.tsv'
  parse = arrow.ParseOptions(
    delimiter='\t' if tabs else ',',
    quote_char=False if tabs else '"',
    newlines_in_values=not tabs,
  )
  names = _header(path, parse.delimiter, tabs)
  _distinct(path, names)
  try:
    table = arrow.read_csv(
      path,
      # One thread: only then does an error know its row.
      read_options=arrow.ReadOptions(use_threads=False),
      parse_options=parse,
      # Everything is text: a label 01 is not 1, a text 'null' is not missing.
      convert_options=arrow.ConvertOptions(
        column_types={name: pa.string() for name in names}, strings_can_be_null=False
      ),
    )
  except pa.ArrowInvalid as error:
    # Arrow counts the header as row 1.
    said = re.sub(r'Row #(\d+)', lambda match: f'row {int(match[1]) - 1}', str(error))
    raise ValueError(f'{path}: {said}') from error
  return _columns(table)


def _header(path: pathlib.Path, delimiter: str, tabs: bool) -> list[str]:
  with open(path, encoding='utf-8-sig', errors='replace', newline='') as file:
    quoting = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    for names in csv.reader(file, delimiter=delimiter, quoting=quoting):
      if names:  # Arrow passes over empty lines too
        return names
  raise ValueError(f'{path}: no rows')


def _jsonl(path: pathlib.Path) -> Columns:
  rows = []
  with open(path, encoding='utf-8-sig') as file:
    lines = enumerate(file, 1)
    while True:
      try:
        number, line = next(lines)
      except StopIteration:
        break
      except UnicodeDecodeError as error:
        raise ValueError(f'{path}: row {len(rows) + 1}: not UTF-8: {error}') from error
      if not line.strip():
        continue
      try:
        row = json.loads(line)
      except json.JSONDecodeError as error:
        raise ValueError(f'{path}: row {number}: not JSON: {error}') from error
      if not isinstance(row, dict):
        raise ValueError(f'{path}: row {number}: {type(row).__name__}, not an object of fields')
      rows.append(row)
  names = list(dict.fromkeys(name for row in rows for name in row))
  return {name: [row.get(name) for row in rows] for name in names}


def _parquet(path: pathlib.Path) -> Columns:
  import pyarrow as pa
  from pyarrow import parquet

  try:
    with parquet.ParquetFile(path) as file:
      _distinct(path, file.schema_arrow.names)
      table = file.read()
  except (pa.ArrowInvalid, OSError) as error:
    raise ValueError(f'{path}: not a readable parquet file: {error}') from error
  return _columns(table)


def _distinct(path: pathlib.Path, names: list[str]) -> None:
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise ValueError(f'{path}: columns {twice} occur more than once')


def _columns(table) -> Columns:
  return {name: table.column(name).to_pylist() for name in table.column_names}
