"""Arrays of any size on disk: appended to block by block, mapped into memory afterwards."""

import contextlib
import json
import logging
import math
import os
import pathlib
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kdjax import quote

_log = logging.getLogger('kdjax')
_META = 'meta.json'
_BYTES = 1 << 20  # read together where a sum is checked


class Writer:
  """Rows of i32 arrays, appended to a file each.

  note: what else is to be kept; anything that JSON holds.
  """

  def __init__(self, folder: pathlib.Path):
    self.rows, self.note = 0, None
    self._folder, self._files, self._meta = folder, {}, {}

  def add(self, **arrays: np.ndarray) -> None:
    """Append i32[k, ...] to each; the names are those of the first call."""
    for name, array in arrays.items():
      if not self.rows:
        self._files[name] = _file(self._folder, name).open('wb')
        self._meta[name] = dict(row=array.shape[1:], sum=0)
      data = np.ascontiguousarray(array, np.int32).data.cast('B')
      self._meta[name]['sum'] = zlib.crc32(data, self._meta[name]['sum'])
      self._files[name].write(data)
    self.rows += len(array)

  def close(self) -> None:
    """Close the files, then say what is in them."""
    for file in self._files.values():
      file.close()
    note = json.dumps(self.note)
    meta = dict(rows=self.rows, arrays=self._meta, note=note, sum=zlib.crc32(note.encode()))
    (self._folder / _META).write_text(json.dumps(meta), encoding='utf8')


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[Writer]:
  """A Writer of a folder, of which there is all or nothing: written aside, then renamed."""
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = pathlib.Path(tempfile.mkdtemp(prefix='.tmp-', dir=path.parent))
  try:
    writer = Writer(aside)
    try:
      yield writer
    finally:
      writer.close()
    os.chmod(aside, 0o755)  # mkdtemp's directories are for one user, caches are often shared
    try:
      aside.rename(path)
    except OSError:
      if not path.is_dir():  # else another process was quicker with the same rows
        raise
  finally:
    shutil.rmtree(aside, ignore_errors=True)


def load(
  path: pathlib.Path, bounds: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, np.ndarray], Any] | None:
  """(mapped arrays, note) of a folder; None where there is none, or it is not whole.

  Every byte is read once, a piece at a time, and compared with its sum.

  Args:
    bounds: by name, what numbers must be in: (low, high), high not included. There may be fewer
      arrays, and no others.
  """
  if not path.is_dir():
    return None
  try:
    meta = json.loads((path / _META).read_text(encoding='utf8'))
    if zlib.crc32(meta['note'].encode()) != meta['sum']:
      raise ValueError('the note is not what was written')
    arrays = {}
    for name, said in meta['arrays'].items():
      low, high = bounds[name]  # a name of another kind could lead out of the folder
      file, shape = _file(path, name), (meta['rows'], *said['row'])
      if not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f'{file.name} of shape {shape}')
      if file.stat().st_size != 4 * math.prod(shape):
        raise ValueError(f'{file.name} is not as long as what was written')
      total, least, most = _read(file)
      if total != said['sum'] or not low <= least <= most < high:
        raise ValueError(f'{file.name} is not what was written')
      # As a plain array: of a memmap, rows that are picked would be memmaps too.
      arrays[name] = np.asarray(np.memmap(file, np.int32, 'r', shape=shape))
    return arrays, json.loads(meta['note'])
  except Exception as error:  # JSON of any shape: it fails in as many ways
    _log.warning('Token cache %s is damaged (%s) and made anew.', path, quote.error(error))
    return None


def _file(folder: pathlib.Path, name: str) -> pathlib.Path:
  return folder / f'{name}.i32'


def _read(file: pathlib.Path) -> tuple[int, int, int]:
  """(sum, least, greatest) of a file's numbers."""
  total, least, most = 0, math.inf, -math.inf
  with file.open('rb') as f:
    while piece := f.read(_BYTES):
      total = zlib.crc32(piece, total)
      numbers = np.frombuffer(piece, np.int32)
      least, most = min(least, int(numbers.min())), max(most, int(numbers.max()))
  return total, least, most
