"""Arrays in idx and npz files: what a file says of its size is checked before memory is asked for.

idx: the format of MNIST, http://yann.lecun.com/exdb/mnist. npz: a zip of NumPy's arrays.
"""

import contextlib
import gzip
import math
import pathlib
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

LIMIT = 4 << 30  # bytes of one array; CIFAR's training images are 154 MB
_CHUNK = 1 << 20
_BROKEN = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)


def idx(path: str | pathlib.Path) -> np.ndarray:
  """u8 array of an idx file, gzipped where its name ends in .gz.

  Raises:
    ValueError: no such file, another format or type, a size that is not the file's.
  """
  path = pathlib.Path(path)
  opened = gzip.open if path.suffix == '.gz' else open
  with _named(path), opened(path, 'rb') as file:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b'\0\0' or not 1 <= magic[3] <= 4:
      raise ValueError(f'begins with {magic.hex()}: no idx file of 1 to 4 dimensions')
    if magic[2] != 8:
      raise ValueError(f'holds type {magic[2]:#04x}; only unsigned bytes, 0x08, are read')
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
      raise ValueError('ends within its header')
    shape = tuple(int(n) for n in np.frombuffer(header, '>u4'))
    data = _exactly(file, math.prod(shape), shape)
    return np.frombuffer(data, np.uint8).reshape(shape)


def npz(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Name -> array of an npz file; objects, which would be pickles, are refused.

  Raises:
    ValueError: no such file, no zip, a member that is no array or not as long as it says.
  """
  path = pathlib.Path(path)
  with _named(path), zipfile.ZipFile(path) as archive:
    names = archive.namelist()
    if len(names) > 100:
      raise ValueError(f'has {len(names)} members: no file of a few arrays')
    out = {}
    for name in names:
      with archive.open(name) as file:
        out[name.removesuffix('.npy')] = _npy(file, name)
    return out


def _npy(file: BinaryIO, name: str) -> np.ndarray:
  npy = np.lib.format
  try:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
      raise ValueError(f'version {version}')
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columns_first, dtype = read(file)
  except Exception as error:  # the header is parsed as Python: it fails in as many ways
    raise ValueError(f'{name} is no NumPy array: {" ".join(str(error).split())[:200]}') from error
  if dtype.kind not in 'biufUS' or any(n < 0 for n in shape):
    raise ValueError(f'{name} holds {dtype} {shape}: only numbers and text are read')
  data = _exactly(file, math.prod(shape) * dtype.itemsize, shape, f'{name} ')
  return np.frombuffer(data, dtype).reshape(shape, order='F' if columns_first else 'C')


def _exactly(file: BinaryIO, count: int, shape: tuple[int, ...], what: str = '') -> bytes:
  """The rest of the file, which must be this long; never more is held than there is."""
  if not 0 < count <= LIMIT:
    raise ValueError(f'{what}says it is {shape}, {count} bytes; from 1 to {LIMIT} are read')
  data = bytearray()
  while len(data) <= count:
    piece = file.read(min(_CHUNK, count + 1 - len(data)))
    if not piece:
      break
    data += piece
  if len(data) != count:
    there = f'{len(data)}' if len(data) < count else 'more'
    raise ValueError(f'{what}says it is {shape}, {count} bytes, but has {there}')
  return bytes(data)


@contextlib.contextmanager
def _named(path: pathlib.Path):
  """Whatever is wrong with the file becomes a ValueError that names it."""
  if not path.is_file():
    raise ValueError(f'{path}: no such file')
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  except _BROKEN as error:
    raise ValueError(f'{path}: damaged, or of another format: {error}') from error
