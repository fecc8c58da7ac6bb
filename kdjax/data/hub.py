"""The HuggingFace hub and TensorFlow Datasets: GLUE and other data sets, as columns; images."""

import importlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdjax import quote
from kdjax.data import files

_REMEDY = (
  'without the network, put <dir>/<task>/<split>.parquet (of images: the files of the benchmark, '
  'or <task>.npz) somewhere and set '
  'config.data.source=local and config.data.dir'
)


_IMAGES = dict(mnist='mnist', fashion_mnist='mnist', cifar10='cifar', cifar100='cifar')


def huggingface(task: str) -> dict[str, files.Columns]:
  """Split -> columns of nyu-mll/glue.

  Raises:
    ValueError: the hub cannot be reached, or has no such task.
  """
  import datasets

  try:
    found = datasets.load_dataset('nyu-mll/glue', task)
  except Exception as error:  # each layer below (http, hub, datasets, disk) has errors of its own
    raise _unreachable(f'nyu-mll/glue, {task}', 'the HuggingFace hub', error) from error
  return {
    name: {column: split[column][:] for column in split.column_names}
    for name, split in found.items()
  }


def split(name: str, configuration: str | None, part: str) -> files.Columns:
  """Columns of one split of a data set of the HuggingFace hub; classes by their ids.

  Raises:
    ValueError: it cannot be read from there.
  """
  import datasets

  try:
    found = datasets.load_dataset(name, configuration, split=part)
  except Exception as error:  # as above
    raise _unreachable(f'{name}, {part}', 'the HuggingFace hub', error) from error
  return {column: found[column][:] for column in found.column_names}


def dataset(name: str, configuration: str | None) -> dict[str, Any]:
  """Split -> datasets.Dataset of a data set of the HuggingFace hub.

  Raises:
    ValueError: it cannot be read from there.
  """
  import datasets

  try:
    return dict(datasets.load_dataset(name, configuration))
  except Exception as error:  # as above
    raise _unreachable(
      f'{name} is no file or folder here, and as a data set it',
      'the HuggingFace hub',
      error,
      'without the network, config.data.train takes a file, or a folder of datasets.save_to_disk',
    ) from error


def saved(path: pathlib.Path) -> dict[str, Any]:
  """Split -> datasets.Dataset of a folder that datasets.save_to_disk has written.

  Raises:
    ValueError: it cannot be read.
  """
  import datasets

  try:
    found = datasets.load_from_disk(str(path))
  except Exception as error:  # as above
    raise ValueError(f'{path}: no readable data set: {quote.error(error)}') from error
  return dict(found) if isinstance(found, dict) else {'train': found}


def class_names(split, label: str) -> tuple[str, ...]:
  """Of a column of classes, or of lists of them, that knows their names; () of any other."""
  import datasets

  feature = split.features.get(label)
  feature = getattr(feature, 'feature', feature)
  return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else ()


def columns(split, wanted: Sequence[str], label: str) -> files.Columns:
  """Values of the columns that are wanted, classes by their names; the others are left empty."""
  names = class_names(split, label)

  def named(value):
    if isinstance(value, list):
      return [named(one) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None

  found = {name: list(split[name]) for name in wanted if name in split.column_names}
  if names:
    found[label] = [named(value) for value in found[label]]
  return dict.fromkeys(split.column_names, ()) | found


def tfds(task: str, directory: str) -> dict[str, files.Columns]:
  """Split -> columns of TFDS's glue/<task>; array_record files, no TensorFlow.

  Args:
    directory: data_dir of TFDS; '' for its own default. Prepared data are used as they are.

  Raises:
    ValueError: neither prepared nor to be downloaded.
  """
  splits = {}
  for name, rows in _prepared(f'glue/{task}', 'text.glue', directory).items():
    columns = rows[0] if rows else {}
    splits[name] = {column: [_text(row[column]) for row in rows] for column in columns}
  return splits


def tfds_images(task: str, directory: str) -> dict[str, tuple[np.ndarray, list[int]]]:
  """Split -> (images u8[n, H, W, C], labels) of TFDS's mnist, fashion_mnist, cifar10, cifar100.

  Raises:
    ValueError: TFDS has no such task here, or it is neither prepared nor to be downloaded.
  """
  if task not in _IMAGES:
    raise ValueError(
      f"config.data.source='tfds' has {', '.join(_IMAGES)}, not {task!r}: name a file of your own "
      'in config.data.train'
    )
  splits = {}
  for name, rows in _prepared(task, f'image_classification.{_IMAGES[task]}', directory).items():
    pixels = np.stack([row['image'] for row in rows]) if rows else np.zeros((0, 1, 1, 1), np.uint8)
    splits[name] = pixels, [int(row['label']) for row in rows]
  return splits


def _prepared(name: str, module: str, directory: str) -> dict[str, list[dict[str, Any]]]:
  """Split -> rows of a builder of TFDS."""
  import tensorflow_datasets

  try:
    # Registers the builder, which no name finds without TensorFlow.
    importlib.import_module(f'tensorflow_datasets.{module}')
    # array_record is the format that is read without TensorFlow.
    builder = tensorflow_datasets.builder(
      name, data_dir=directory or None, file_format='array_record'
    )
    builder.download_and_prepare()
    found = builder.as_data_source()
    return {str(split): list(source) for split, source in found.items()}
  except Exception as error:  # as above
    raise _unreachable(name, 'TensorFlow Datasets', error) from error


def _text(value: Any) -> Any:
  if isinstance(value, bytes):
    return value.decode()
  return value.item() if hasattr(value, 'item') else value


def _unreachable(what: str, where: str, error: Exception, remedy: str = _REMEDY) -> ValueError:
  said = ' '.join(str(error).split())[:300]
  return ValueError(
    f'{what} could not be read from {where} ({type(error).__name__}: {said}); {remedy}'
  )
