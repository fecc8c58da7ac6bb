"""Files of rows in blocks, read and written: memory does not grow with them."""

import csv
import io
import json
import math
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kdjax import quote
from kdjax.data import files


def read(path: pathlib.Path, size: int) -> Iterator[files.Columns]:
  """The columns of a file, `size` rows at a time, as files.read has them.

  Of jsonl, a block has the fields of its own rows.

  Raises:
    ValueError: as files.read.
  """
  held: files.Columns = {}
  n = 0
  for piece in files.pieces(path):
    n = files.extend(held, n, piece)
    while n >= size:
      yield {name: values[:size] for name, values in held.items()}
      held, n = {name: values[size:] for name, values in held.items()}, n - size
  if n:
    yield held


class Writer:
  """Parts of a file of one format, and the file that they make, one after another.

  path: of the file; its extension is the format. like: a parquet file, whose columns keep their
  types in another one.

  Raises:
    ValueError: another extension.
  """

  def __init__(self, path: pathlib.Path, columns: Sequence[str], like: pathlib.Path | None = None):
    if path.suffix not in files.READS:
      raise ValueError(
        f'{path}: unknown extension {path.suffix!r}; it is one of {", ".join(files.READS)}'
      )
    self._path, self._columns = path, tuple(columns)
    self._types = {}
    if path.suffix == '.parquet' and like and like.suffix == '.parquet':
      from pyarrow import parquet

      schema = parquet.read_schema(like)
      self._types = dict(zip(schema.names, schema.types, strict=True))

  def part(self, block: files.Columns, path: pathlib.Path, first: int) -> None:
    """Write some rows, of which the first has this number in the file.

    Columns that the block lacks are empty in it.

    Raises:
      ValueError: what the format cannot hold.
    """
    n = len(next(iter(block.values())))
    whole = {name: block.get(name, [None] * n) for name in self._columns}
    if self._path.suffix == '.parquet':
      self._table(whole, path)
      return
    with path.open('w', encoding='utf8', newline='') as file:
      file.writelines(self._lines(zip(*whole.values(), strict=True), first))

  def join(self, parts: Sequence[pathlib.Path], path: pathlib.Path) -> None:
    """Write the file, of parts; ValueError where their types do not go together."""
    if self._path.suffix == '.parquet':
      self._tables(parts, path)
      return
    with path.open('wb') as file:
      if self._path.suffix != '.jsonl':
        file.write(''.join(self._lines([self._columns], 0)).encode())
      for part in parts:
        with part.open('rb') as rows:
          shutil.copyfileobj(rows, file)

  def _lines(self, rows: Iterable[Sequence], first: int) -> Iterator[str]:
    if self._path.suffix == '.jsonl':
      return (_json(dict(zip(self._columns, row, strict=True))) + '\n' for row in rows)
    line = _csv if self._path.suffix == '.csv' else self._tsv
    return (line([_cell(value) for value in row], number) for number, row in enumerate(rows, first))

  def _tsv(self, cells: list[str], number: int) -> str:
    """Without quotes, as GLUE's own files are, and as kdjax reads them."""
    for name, cell in zip(self._columns, cells, strict=True):
      if set('\t\r\n') & set(cell):
        raise ValueError(
          f'{self._path}: row {number}, column {name!r}: {quote.value(cell)} has a tab or a line '
          'break, and a cell of tsv has neither: give the file another extension'
        )
    return '\t'.join(cells) + '\n'

  def _table(self, block: files.Columns, path: pathlib.Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    found = {}
    for name, values in block.items():
      try:
        found[name] = pa.array(values, self._types.get(name))
      except (pa.ArrowException, TypeError, OverflowError) as error:
        raise self._mixed(f'column {name!r}: {quote.error(error)}') from error
    try:
      parquet.write_table(pa.table(found), path)
    except pa.ArrowException as error:  # an object of no fields, say
      raise ValueError(
        f'{self._path}: {quote.error(error)}: give the file another extension'
      ) from error

  def _tables(self, parts: Sequence[pathlib.Path], path: pathlib.Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    try:
      # Numbers and no numbers, or integers and fractions, in different parts.
      schema = pa.unify_schemas(map(parquet.read_schema, parts), promote_options='permissive')
    except pa.ArrowException as error:
      raise self._mixed(quote.error(error)) from error
    with parquet.ParquetWriter(path, schema) as file:
      for part in parts:
        file.write_table(parquet.read_table(part).cast(schema))

  def _mixed(self, said: str) -> ValueError:
    return ValueError(
      f'{self._path}: a column of parquet has one type ({said}): give the file another extension'
    )


def _csv(cells: list[str], number: int) -> str:
  del number
  file = io.StringIO(newline='')
  # With this end of a line a lone \r is quoted too: most readers take it for one.
  csv.writer(file, lineterminator='\r\n').writerow(cells)
  return file.getvalue().removesuffix('\r\n') + '\n'


def _cell(value: Any) -> str:
  if value is None:
    return ''
  return _json(value) if isinstance(value, dict | list) else str(value)


def _json(value: Any) -> str:
  return json.dumps(_plain(value), ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
  """As JSON can say it: there is no NaN."""
  if isinstance(value, float) and not math.isfinite(value):
    return None
  if isinstance(value, dict):
    return {str(k): _plain(v) for k, v in value.items()}
  return [_plain(v) for v in value] if isinstance(value, list) else value
