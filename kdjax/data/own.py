"""What config.data.train may name: a file, a folder of files, a saved data set, or one of the hub.

A folder of `datasets.save_to_disk` and a data set of the hub say what their classes are called.
"""

import logging
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from kdjax import quote
from kdjax.data import files, hub

_log = logging.getLogger('kdjax')
HUB = re.compile(r'([\w.-]+/[\w.-]+)(?::([\w.-]+))?')
_NAMES = dict(
  train=('train', 'training'),
  validation=('validation', 'valid', 'val', 'dev', 'development', 'eval'),
  test=('test', 'testing'),
)
_KNOWN = {name: split for split, names in _NAMES.items() for name in names}


class Found(NamedTuple):
  """Splits as columns.

  columns: split -> column -> values; classes by their names. where: split -> what errors call it.
  names: class names in id order, of the label column where it has some; else ().
  origin: a sentence for logs.
  """

  columns: dict[str, files.Columns]
  where: dict[str, str]
  names: tuple[str, ...]
  origin: str


def read(where: str, wanted: Sequence[str], label: str) -> Found:
  """The splits of a data set, train at the least.

  Args:
    where: a file; a folder of `datasets.save_to_disk`; a folder of files with train, validation
      and test in their names, or in those of folders below it; owner/name of a data set of the
      HuggingFace hub, with ':configuration' where it has several.
    wanted: columns to be read of a data set that may have more. label: of them, that of the label.

  Raises:
    ValueError: nothing there, no train split, or what cannot be read.
  """
  path = pathlib.Path(where).expanduser()
  if path.is_dir():
    saved = any((path / name).is_file() for name in ('dataset_dict.json', 'dataset_info.json'))
    return _sets(where, hub.saved(path), wanted, label) if saved else _folder(path)
  if not path.exists() and path.suffix not in files.READS and (match := HUB.fullmatch(where)):
    return _sets(where, hub.dataset(*match.groups()), wanted, label)
  return Found({'train': files.read(path)}, {'train': where}, (), f'File {where}.')


def _sets(where: str, found: dict, wanted: Sequence[str], label: str) -> Found:
  """Of datasets.Dataset by the names of the splits."""
  known = {_KNOWN[name]: name for name in found if name in _KNOWN}
  if 'train' not in known:
    raise ValueError(f'{where}: no train split; it has {quote.names(found)}')
  if rest := found.keys() - known.values():
    _log.info('%s: splits left out: %s.', where, quote.names(sorted(rest)))
  known = {name: found[known[name]] for name in _NAMES if name in known}
  names = hub.class_names(known['train'], label)
  columns = {name: hub.columns(split, wanted, label) for name, split in known.items()}
  said = {name: f'{where}, {name}' for name in known}
  return Found(columns, said, names, f'Data set {where}: {", ".join(known)}.')


def _folder(path: pathlib.Path) -> Found:
  found = sorted(f for f in path.rglob('*') if f.is_file() and f.suffix in files.READS)
  by_split: dict[str, list[pathlib.Path]] = {}
  for file in found:
    by_split.setdefault(_split(file.relative_to(path)), []).append(file)
  rest = by_split.pop('', [])
  if rest and not by_split:  # files of no split are rows to learn from
    by_split['train'] = rest
  if 'train' not in by_split:
    raise ValueError(
      f'{path}: no train split: a folder holds files with train, validation, test in their names '
      f'({", ".join(files.READS)}), or a data set of datasets.save_to_disk; it has '
      f'{quote.names(str(f.relative_to(path)) for f in found) or "none"}'
    )
  elif rest:
    _log.warning('%s: left out, of no split: %s', path, quote.names(str(f) for f in rest))
  by_split = {name: by_split[name] for name in _NAMES if name in by_split}
  for name, own in by_split.items():
    if len({f.suffix for f in own}) > 1:
      raise ValueError(f'{path}: {name} in files of several kinds: {quote.names(map(str, own))}')
  columns = {name: _joined(own) for name, own in by_split.items()}
  where = {
    name: str(own[0]) if len(own) == 1 else f'{path}, the {len(own)} files of {name} by name'
    for name, own in by_split.items()
  }
  counts = ', '.join(f'{name} in {len(own)}' for name, own in by_split.items())
  return Found(columns, where, (), f'Files of {path}: {counts}.')


def _split(path: pathlib.Path) -> str:
  """'validation' of data/dev-00000-of-00001.parquet and of dev/0.parquet; '' of neither."""
  for part in (path.name, *reversed(path.parts[:-1])):
    for word in re.split(r'[^a-z]+', part.lower()):
      if word in _KNOWN:
        return _KNOWN[word]
  return ''


def _joined(paths: list[pathlib.Path]) -> files.Columns:
  """The rows of all files, one after another."""
  first, *rest = (files.read(path) for path in paths)
  for path, more in zip(paths[1:], rest, strict=True):
    if set(more) != set(first):
      raise ValueError(
        f'{path}: its columns {quote.names(more)} are not those of {paths[0].name}: '
        f'{quote.names(first)}'
      )
    for name, values in first.items():
      values += more[name]
  return first
