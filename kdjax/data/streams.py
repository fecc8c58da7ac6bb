"""Documents one after another, from files and hub data sets that need not fit into memory."""

import glob
import pathlib
from collections.abc import Iterator

from kdjax import quote
from kdjax.data import files, own

# Loaders of `datasets`; None: files.py, as those guess types, and an index, from the first rows.
_READS = {'.txt': 'text', '.jsonl': None, '.parquet': 'parquet', '.csv': None, '.tsv': None}
_ROWS = 256  # read at once


def find(where: str) -> list[pathlib.Path]:
  """The files that config.data.unlabelled names, by name; none where it is the id of a data set.

  where: a file, a folder (all below it), a pattern like 'wiki/*.txt.gz', or owner/name of a data
    set on the HuggingFace hub, with ':configuration' where it has several.

  Raises:
    ValueError: nothing there, or a file of another kind.
  """
  path = pathlib.Path(where).expanduser()
  if path.is_dir():
    found = [f for f in path.rglob('*') if f.is_file() and files.kind(f) in _READS]
  elif path.exists():
    found = [path]
  else:
    found = [pathlib.Path(f) for f in glob.glob(str(path), recursive=True)]
    found = [f for f in found if f.is_file()]
    if not found and own.HUB.fullmatch(where):
      return []
  known = f'{", ".join(_READS)} (all but parquet also with .gz)'
  if not found:
    raise ValueError(
      f'config.data.unlabelled={where!r}: no such file, no folder of {known}, no pattern that '
      'finds some, and no owner/name of a hub data set'
    )
  for file in found:
    if files.kind(file) not in _READS:
      raise ValueError(f'{file}: unknown extension; config.data.unlabelled reads {known}')
  return sorted(found)


def documents(where: str, column: str, pair: str = '') -> Iterator[str | tuple[str, str]]:
  """Every text of a column, file after file; blank ones are passed over.

  With pair, pairs of it and a second column. A line of a .txt file is a document. A compressed file
  is read as it is unpacked.

  Raises:
    ValueError: naming file and row (from 1), where a row is no text or cannot be read; naming the
      columns there are, where this one is missing.
  """
  columns = (column, pair) if pair else (column,)
  for file in find(where) or [None]:
    name, done = str(file or where), 0
    for block in _columns(file, where, columns):
      for key, values in zip(columns, block, strict=True):
        for row, value in enumerate(values, 1):
          if not isinstance(value, str):
            raise ValueError(
              f'{name}: row {done + row} of column {key!r} is {quote.value(value)}, not text: '
              'correct or drop the row'
            )
      rows = zip(*block, strict=True) if pair else block[0]
      yield from (row for row in rows if ''.join(row).strip())
      done += len(block[0])


def _columns(
  file: pathlib.Path | None, where: str, columns: tuple[str, ...]
) -> Iterator[list[list]]:
  """Blocks of the values of each column."""
  name = str(file or f'{where} (no such file here, so a data set of the hub)')
  if file and files.kind(file) == '.txt' and len(columns) > 1:
    raise ValueError(f'{name}: a line is one text, and pairs are wanted: take another kind of file')
  ours = file and _READS[files.kind(file)] is None
  try:
    if ours:
      blocks = files.blocks(file)
    else:
      blocks = (_file(file, columns) if file else _hub(where)).iter(_ROWS)
  except Exception as error:  # each layer below (http, hub, datasets, arrow) has errors of its own
    raise _unreadable(name, error) from error
  while True:
    try:
      block = next(blocks, None)
    except Exception as error:  # as above
      if ours and isinstance(error, ValueError):  # it names file and row
        raise
      raise _unreadable(name, error) from error
    if block is None:
      return
    # The loader of plain lines calls its one column text, whatever the others' is called.
    keys = ('text',) if file and files.kind(file) == '.txt' else columns
    for key, column in zip(('text', 'pair'), keys, strict=False):
      if column not in block:
        raise ValueError(
          f'{name}: no column {column!r}; it has {quote.names(block)}: set config.data.{key}'
        )
    yield [block[column] for column in keys]


def _file(file: pathlib.Path, columns: tuple[str, ...]):
  import datasets

  kind, options = _READS[files.kind(file)], {}
  if kind == 'parquet':
    from pyarrow import parquet

    if set(columns) <= set(parquet.read_schema(file).names):  # else the caller says what there is
      options = dict(columns=list(columns))
  # Escaped: the loader takes a name for a pattern.
  escaped = glob.escape(str(file))
  return datasets.load_dataset(kind, data_files=escaped, split='train', streaming=True, **options)


def _hub(where: str):
  import datasets

  name, configuration = own.HUB.fullmatch(where).groups()
  return datasets.load_dataset(name, configuration, split='train', streaming=True)


def _unreadable(name: str, error: Exception) -> ValueError:
  return ValueError(f'{name}: cannot be read ({type(error).__name__}: {quote.error(error)})')
