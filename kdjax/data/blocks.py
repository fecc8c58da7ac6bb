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


class Unfit(ValueError):
  """What a format cannot hold."""


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
      Unfit: what the format cannot hold.
    """
    n = len(next(iter(block.values())))
    whole = {name: block.get(name, [None] * n) for name in self._columns}
    if self._path.suffix == '.parquet':
      self._write(self._arrow(whole), path)
      return
    with path.open('w', encoding='utf8', newline='') as file:
      file.writelines(self._lines(zip(*whole.values(), strict=True), first))

  def check(self, pieces: Iterable[files.Columns], size: int) -> None:
    """Unfit where these columns, `size` rows at a time, do not go into a file of the format."""
    if self._path.suffix == '.tsv':
      self._plain(self._columns, list(self._columns), 0)
      for number, block in enumerate(pieces):
        own = [name for name in self._columns if name in block]
        for row, cells in enumerate(zip(*(block[c] for c in own), strict=True), 1):
          self._plain(own, [_cell(value) for value in cells], number * size + row)
    elif self._path.suffix == '.parquet':
      self._tabular(pieces)

  def _tabular(self, pieces: Iterable[files.Columns]) -> None:
    """Of numbers in lists and objects `join` alone finds out that a fraction cannot say them."""
    import pyarrow as pa

    schemas, wide = [], {}
    for block in pieces:
      table = self._arrow(block)
      self._write(table.slice(0, 0), pa.BufferOutputStream())
      schemas.append(table.schema)
      for field in table.schema:
        if pa.types.is_integer(field.type):
          values = (v for v in block[field.name] if v is not None and abs(v) > 2**53)
          wide[field.name] = wide.get(field.name) or next(values, None)
    for field in self._schema(schemas):
      if wide.get(field.name) is not None and pa.types.is_floating(field.type):
        said = f'{wide[field.name]}, beside fractions'
        raise self._mixed(f'column {field.name!r}: {said}')

  def join(self, parts: Sequence[pathlib.Path], path: pathlib.Path) -> None:
    """Write the file, of parts; Unfit where their types do not go together."""
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
    self._plain(self._columns, cells, number)
    return '\t'.join(cells) + '\n'

  def _plain(self, names: Sequence[str], cells: list[str], number: int) -> None:
    for name, cell in zip(names, cells, strict=True):
      if set('\t\r\n') & set(cell):
        raise Unfit(
          f'{self._path}: row {number}, column {name!r}: {quote.value(cell)} has a tab or a line '
          'break, and a cell of tsv has neither: give the file another extension'
        )

  def _arrow(self, block: files.Columns):
    """A table of pyarrow."""
    import pyarrow as pa

    found = {}
    for name, values in block.items():
      try:
        found[name] = pa.array(values, self._types.get(name))
      except (pa.ArrowException, TypeError, OverflowError) as error:
        raise self._mixed(f'column {name!r}: {quote.error(error)}') from error
      if found[name].type == pa.struct([]):
        raise self._mixed(f'column {name!r}: an object without a field')
    return pa.table(found)

  def _write(self, table, path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    try:
      parquet.write_table(table, path)
    except pa.ArrowException as error:
      raise self._mixed(quote.error(error)) from error

  def _tables(self, parts: Sequence[pathlib.Path], path: pathlib.Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = self._schema(map(parquet.read_schema, parts))
    with parquet.ParquetWriter(path, schema) as file:
      for part in parts:
        try:
          table = parquet.read_table(part).cast(schema)
        except pa.ArrowException as error:  # integers that a fraction cannot say, say
          raise self._mixed(quote.error(error)) from error
        file.write_table(table)

  def _schema(self, schemas: Iterable):
    """Of all: numbers and no numbers, or integers and fractions, may be in different parts."""
    import pyarrow as pa

    try:
      return pa.unify_schemas(list(schemas), promote_options='permissive')
    except pa.ArrowException as error:
      raise self._mixed(quote.error(error)) from error

  def _mixed(self, said: str) -> Unfit:
    return Unfit(
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
