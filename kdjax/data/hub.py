"""GLUE from the HuggingFace hub and from TensorFlow Datasets, as columns per split."""

from typing import Any

from kdjax.data import files

_REMEDY = (
  'without the network, put <dir>/<task>/<split>.parquet somewhere and set '
  'config.data.source=local and config.data.dir'
)


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


def tfds(task: str, directory: str) -> dict[str, files.Columns]:
  """Split -> columns of TFDS's glue/<task>; array_record files, no TensorFlow.

  Args:
    directory: data_dir of TFDS; '' for its own default. Prepared data are used as they are.

  Raises:
    ValueError: neither prepared nor to be downloaded.
  """
  import tensorflow_datasets
  import tensorflow_datasets.text.glue  # registers the builder, which no name finds without TF

  try:
    # array_record is the format that is read without TensorFlow.
    builder = tensorflow_datasets.builder(
      f'glue/{task}', data_dir=directory or None, file_format='array_record'
    )
    builder.download_and_prepare()
    found = builder.as_data_source()
  except Exception as error:  # as above
    raise _unreachable(f'glue/{task}', 'TensorFlow Datasets', error) from error
  splits = {}
  for name, source in found.items():
    rows = list(source)
    columns = rows[0] if rows else {}
    splits[str(name)] = {column: [_text(row[column]) for row in rows] for column in columns}
  return splits


def _text(value: Any) -> Any:
  if isinstance(value, bytes):
    return value.decode()
  return value.item() if hasattr(value, 'item') else value


def _unreachable(what: str, where: str, error: Exception) -> ValueError:
  said = ' '.join(str(error).split())[:300]
  return ValueError(
    f'{what} could not be read from {where} ({type(error).__name__}: {said}); {_REMEDY}'
  )
