"""A whole config.data for tests, so that to read a field the config lacks is an error."""

import json

from ml_collections import ConfigDict


def make(**changes) -> ConfigDict:
  c = ConfigDict(
    dict(
      source='files',
      dir='',
      train='',
      validation='',
      test='',
      max_length=64,
      buckets=(16, 32, 64),
      train_fraction=1.0,
      train_size=0,
      seed=0,
      validation_fraction=0.25,
      cache='',
    )
  )
  c.update({name: str(value) if name in _PATHS else value for name, value in changes.items()})
  return c


_PATHS = ('dir', 'train', 'validation', 'test')


def jsonl(path, rows):
  """Writes rows, one JSON object per line; gives the path."""
  path.write_text('\n'.join(json.dumps(row) for row in rows) + '\n')
  return path


def parquet(path, **columns):
  """Writes columns; gives the path."""
  import pyarrow as pa
  from pyarrow import parquet as pq

  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(pa.table(columns), path)
  return path
