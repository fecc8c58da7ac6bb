"""Where text comes from: embedded corpus, hub, TFDS, a folder in GLUE's layout, one's own data.

Images have sources of their own: images.py.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Callable

import numpy as np

from kdjax import quote, tasks
from kdjax.data import docs, files, hub, images, labels, own, table

Table = table.Table
Text = table.Text
labelled, unlabelled = table.labelled, table.unlabelled
subset, join = table.subset, table.join
hold_out = table.hold_out

_log = logging.getLogger('kdjax')


def read(c, spec: tasks.Spec) -> Text:
  """All splits of a task, as text or as images.

  Args:
    c: config.data: source, dir, train, validation, test, validation_fraction, seed.
    spec: columns, label column, kind and class names of the task.

  Raises:
    ValueError: anything wrong with the data; the message names file, row, field and the remedy.
  """
  _all_read(c)
  if spec.images:
    text = images.read(c, spec)
  elif c.source in _SOURCES:
    text = _SOURCES[c.source](c, spec)
  else:
    raise ValueError(
      f'config.data.source is {c.source!r}; it is one of {", ".join(sorted(_SOURCES))}'
    )
  counts = ', '.join(f'{name} {len(split.first):,}' for name, split in text.splits.items())
  _log.info('Rows: %s.', counts or 'none with labels')
  return text


def _docs(c, spec: tasks.Spec) -> Text:
  splits = {}
  for name, rows in docs.corpus().items():
    label = np.array([label for _, label in rows], np.int32)
    splits[name] = Table([text for text, _ in rows], None, label, _count(label))
  return Text(splits, docs.LABELS, 'Docstrings of installed libraries; the class is the library.')


def _hub(c, spec: tasks.Spec) -> Text:
  return _benchmark(
    hub.huggingface(spec.name), spec, 'nyu-mll/glue', f'GLUE {spec.name} from the HuggingFace hub.'
  )


def _tfds(c, spec: tasks.Spec) -> Text:
  found = hub.tfds(spec.name, c.dir)
  return _benchmark(found, spec, 'glue', f'GLUE {spec.name} from TensorFlow Datasets.')


def _local(c, spec: tasks.Spec) -> Text:
  if not c.dir:
    raise ValueError(
      "config.data.source='local' reads <dir>/<task>/<split>.parquet: set config.data.dir"
    )
  folder = pathlib.Path(c.dir) / spec.name
  if not folder.is_dir():
    raise ValueError(f'{folder}: no such folder; config.data.dir holds one folder per task')
  found = {name: path for name in _names(spec) if (path := folder / f'{name}.parquet').is_file()}
  columns = {name: files.read(path) for name, path in found.items()}
  return _benchmark(columns, spec, str(folder), f'{spec.name} from {folder}.', '.parquet')


def _benchmark(
  found: dict[str, files.Columns], spec: tasks.Spec, where: str, origin: str, suffix: str = ''
) -> Text:
  """Splits under their usual names; train and the one that selects the checkpoint must be there."""
  needed = dict.fromkeys((spec.evaluation[0],))
  if not spec.evaluation[0].startswith('test'):  # AX is all test: it is scored, never trained on
    needed = dict.fromkeys(('train', *needed))
  for name in needed:
    if name not in found:
      there = ', '.join(sorted(found)) or 'none'
      raise ValueError(f'{where}/{name}{suffix}: no such split of {spec.name} (found: {there})')
  ordered = {name: found[name] for name in _names(spec) if name in found}
  return _text(ordered, {name: f'{where}/{name}{suffix}' for name in ordered}, spec, origin)


def _names(spec: tasks.Spec) -> dict[str, None]:
  rest = ('test', 'test_matched', 'test_mismatched')
  return dict.fromkeys(('train', 'validation', *spec.evaluation, *rest))


def _files(c, spec: tasks.Spec) -> Text:
  if not c.train:
    raise ValueError("config.data.source='files' reads config.data.train, which is empty")
  labelled = _label_columns(spec)
  only = labelled[0] if len(labelled) == 1 and spec.kind != 'regression' else ''
  found = own.read(c.train, (*spec.columns, *labelled), only)
  columns, where, origin = found.columns, found.where, found.origin
  for name in ('validation', 'test'):
    if c[name]:
      columns[name], where[name] = files.read(c[name]), c[name]
      origin += f' {name.capitalize()}: {c[name]}.'
  columns = {name: columns[name] for name in ('train', 'validation', 'test') if name in columns}
  if found.names and not spec.labels:
    _log.info('Classes, as the data set names them: %s.', ', '.join(found.names))
    spec = dataclasses.replace(spec, labels=found.names)
  text = _text(columns, where, spec, origin)
  if 'validation' in text.splits:
    return text
  try:
    rest, held = table.hold_out(text.splits['train'], c.validation_fraction, c.seed, spec.kind)
  except ValueError as error:
    raise ValueError(f'{where["train"]}: {error}') from error
  splits = {'train': rest, 'validation': held} | {
    name: split for name, split in text.splits.items() if name != 'train'
  }
  origin = f'{text.origin} Validation: {len(held.first)} rows held out of train.'
  return Text(splits, text.labels, origin)


def _all_read(c) -> None:
  """ValueError where a split is named that the source does not read."""
  read = dict(files=('validation', 'test'), unlabelled=('validation',)).get(c.source, ())
  for name in ('validation', 'test'):
    if c[name] and name not in read:
      raise ValueError(
        f'config.data.{name}={c[name]!r} is not read: the data are those of '
        f'config.data.source={c.source!r}. A file of your own goes beside config.data.train; '
        'python -m kdjax.compare scores another'
      )


def _text_alone(c, spec: tasks.Spec) -> Text:
  """A validation file, where one is named: the rest is read as a stream (corpus.read)."""
  if not c.validation:
    return Text({}, (), 'Unlabelled text.')
  columns, (name,) = files.read(c.validation), spec.columns
  if name not in columns:
    raise ValueError(f'{c.validation}: no column {name!r}; it has {quote.names(columns)}')
  texts = strings(columns[name], f'{c.validation}: column {name!r}')
  label = np.full(len(texts), -1, np.int32)
  origin = f'Unlabelled text; validation: {c.validation}.'
  return Text({'validation': Table(texts, None, label, _count(label))}, (), origin)


def _text(
  splits: dict[str, files.Columns], where: dict[str, str], spec: tasks.Spec, origin: str
) -> Text:
  """Columns -> tables: texts checked, labels turned into numbers."""
  for name, columns in splits.items():
    _check_columns(columns, name, where[name], spec)
    if not len(columns[spec.columns[0]]):
      raise ValueError(f'{where[name]}: no rows')
  names = _class_names(splits, where, spec)
  tables = {}
  for name, columns in splits.items():
    texts = [
      strings(columns[column], f'{where[name]}: column {column!r}') for column in spec.columns
    ]
    label = _labels(columns, name.startswith('test'), names, where[name], spec)
    tables[name] = Table(texts[0], texts[1] if len(texts) > 1 else None, label, _count(label))
  return Text(tables, names, origin)


def _check_columns(columns: files.Columns, split: str, where: str, spec: tasks.Spec) -> None:
  wanted = list(spec.columns)
  if not split.startswith('test'):
    wanted += _label_columns(spec)
  missing = [column for column in wanted if column not in columns]
  if missing:
    raise ValueError(f'{where}: no column {quote.names(missing)}; it has {quote.names(columns)}')


def _label_columns(spec: tasks.Spec) -> list[str]:
  """One column; or 'a,b,c', for a multi-label task with a column of 0 and 1 per class."""
  if spec.kind == 'multilabel' and ',' in spec.label:
    return [part.strip() for part in spec.label.split(',')]
  return [spec.label]


def _class_names(
  splits: dict[str, files.Columns], where: dict[str, str], spec: tasks.Spec
) -> tuple[str, ...]:
  if spec.kind == 'regression':
    return ()
  several = _label_columns(spec)
  if len(several) > 1:
    if spec.labels and len(spec.labels) != len(several):
      raise ValueError(f'{len(spec.labels)} class names for {len(several)} label columns')
    return spec.labels or tuple(several)
  if spec.labels:
    return spec.labels
  if 'train' not in splits:
    raise ValueError(f'{spec.name}: class names are read from a train split, and there is none')
  names = labels.infer(splits['train'][spec.label], spec.kind)
  least = 2 if spec.kind == 'classes' else 1
  if len(names) < least:
    raise ValueError(
      f'{where["train"]}: column {spec.label!r} has {len(names)} distinct labels '
      f'[{quote.names(names)}]; at least {least} are needed'
    )
  _log.info('Classes, read from column %r of train: %s.', spec.label, ', '.join(names))
  return names


def _labels(
  columns: files.Columns, test: bool, names: tuple[str, ...], where: str, spec: tasks.Spec
) -> np.ndarray:
  n = len(columns[spec.columns[0]])
  several = _label_columns(spec)
  if any(column not in columns for column in several):  # a test split without labels
    return table.unlabelled(n, spec.kind, len(names))
  if len(several) > 1:
    each = [labels.flags(columns[column], f'{where}: column {column!r}') for column in several]
    return np.stack(each, 1)
  where = f'{where}: column {spec.label!r}'
  values = columns[spec.label]
  if spec.kind == 'regression':
    return labels.scores(values, where, test)
  return (labels.bits if spec.kind == 'multilabel' else labels.classes)(values, names, where, test)


def strings(values: list, where: str, first: int = 1) -> list[str]:
  """The values, all of them text; ValueError, naming the row, where one is not.

  first: the number of the first row.
  """
  for number, value in enumerate(values, first):
    try:
      str.encode(value)  # nor half of a surrogate pair, which no tokenizer takes
    except (TypeError, UnicodeEncodeError) as error:
      said = quote.value(value)
      raise ValueError(
        f'{where}: row {number} is {said}, not text: correct or drop the row'
      ) from error
  return list(values)


def _count(label: np.ndarray) -> np.ndarray:
  return np.arange(len(label), dtype=np.int32)


_SOURCES: dict[str, Callable[..., Text]] = {
  'docs': _docs,
  'hub': _hub,
  'tfds': _tfds,
  'local': _local,
  'files': _files,
  'unlabelled': _text_alone,
}
