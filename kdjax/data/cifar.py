"""CIFAR's files: batches that Python pickled, read without running anything, and plain records.

https://www.cs.toronto.edu/~kriz/cifar.html. A pickle is a program: here only the instructions that
those batches are made of are followed, and the two names that they call stand for inert records.
"""

import io
import pathlib
import pickle
import pickletools
from typing import Any

import numpy as np

SHAPE = (32, 32, 3)
_PIXELS = 32 * 32 * 3
_LIMIT = 1 << 30  # bytes of a file; CIFAR-100's training batch is 155 MB
_INSTRUCTIONS = {
  'PROTO', 'FRAME', 'STOP', 'MARK', 'NONE', 'NEWTRUE', 'NEWFALSE', 'BININT', 'BININT1', 'BININT2',
  'LONG1', 'SHORT_BINSTRING', 'BINSTRING', 'SHORT_BINBYTES', 'BINBYTES', 'SHORT_BINUNICODE',
  'BINUNICODE', 'EMPTY_DICT', 'EMPTY_LIST', 'EMPTY_TUPLE', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3',
  'SETITEM', 'SETITEMS', 'APPEND', 'APPENDS', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE', 'BINGET',
  'LONG_BINGET', 'GLOBAL', 'STACK_GLOBAL', 'REDUCE', 'BUILD',
}  # fmt: skip


class _Dtype:
  """numpy.dtype as the pickle names it; only its first argument is kept."""

  def __init__(self, name: Any = None, *rest: Any):
    self.name = name

  def __setstate__(self, state: Any) -> None:
    """Byte order and the like: of bytes there is one kind."""


class _Array:
  """numpy.ndarray as the pickle describes it: a state, not yet believed."""

  state: Any = None

  def __setstate__(self, state: Any) -> None:
    self.state = state

  def array(self) -> np.ndarray:
    _, shape, dtype, columns_first, data = self.state
    if not isinstance(dtype, _Dtype) or dtype.name not in ('u1', b'u1') or columns_first:
      raise ValueError('its array is not one of unsigned bytes in rows')
    return np.frombuffer(data, np.uint8).reshape(shape)


def _reconstruct(*arguments: Any) -> _Array:
  return _Array()


_NAMES = {
  ('numpy', 'dtype'): _Dtype,
  ('numpy', 'ndarray'): _Array,
  ('numpy.core.multiarray', '_reconstruct'): _reconstruct,
  ('numpy._core.multiarray', '_reconstruct'): _reconstruct,
}


class _Unpickler(pickle.Unpickler):
  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _NAMES:
      raise ValueError(f'its pickle asks for {module}.{name}, which is refused')
    return _NAMES[module, name]


def unpickle(data: bytes) -> Any:
  """What a batch holds: dict, list, tuple, bytes, str, int, and arrays as _Array.

  Raises:
    ValueError: an instruction or a name that no batch has, or a damaged pickle.
  """
  try:
    # Before anything is followed: memory, too, is asked for by instructions.
    for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
      if instruction.name not in _INSTRUCTIONS:
        raise ValueError(f'its pickle has {instruction.name}, which is refused')
      if instruction.name.endswith('BINPUT') and argument > count:
        raise ValueError(f'its pickle numbers {argument} things by instruction {count}')
    return _Unpickler(io.BytesIO(data), encoding='bytes').load()
  except ValueError:
    raise
  except Exception as error:  # a damaged pickle fails in whatever way its next byte does
    raise ValueError(f'damaged, or no pickle: {type(error).__name__}: {error}') from error


def batch(path: str | pathlib.Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """(images u8[n, 32, 32, 3], labels i32[n]) of a pickled batch, CIFAR-10's or CIFAR-100's (fine).

  Raises:
    ValueError: no such file, or anything in it that is not a batch of this many classes.
  """
  path = pathlib.Path(path)
  try:
    found = unpickle(_bytes(path))
    if not isinstance(found, dict):
      raise ValueError(f'holds a {type(found).__name__}, not a dict')
    fields = {k.decode('latin1') if isinstance(k, bytes) else k: v for k, v in found.items()}
    field = 'fine_labels' if 'fine_labels' in fields else 'labels'
    if not isinstance(fields.get('data'), _Array) or not isinstance(fields.get(field), list):
      raise ValueError(f'has no data and labels: {sorted(map(str, fields))[:10]}')
    pixels, label = fields['data'].array(), fields[field]
    if not all(type(value) is int for value in label):
      raise ValueError('its labels are not all integers')
    if pixels.shape != (len(label), _PIXELS):
      raise ValueError(f'{pixels.shape} pixels for {len(label)} labels; {_PIXELS} are an image')
    return _images(pixels), _labels(np.array(label, np.int64), classes)
  except (ValueError, TypeError, OverflowError) as error:
    raise ValueError(f'{path}: {error}') from error


def records(path: str | pathlib.Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """(images u8[n, 32, 32, 3], labels i32[n]) of a .bin file; CIFAR-100's have a coarse label first.

  Raises:
    ValueError: no such file, or no whole records of this many classes.
  """
  path = pathlib.Path(path)
  try:
    data, before = _bytes(path), 2 if classes == 100 else 1
    size = before + _PIXELS
    if not data or len(data) % size:
      raise ValueError(f'{len(data)} bytes are not whole records of {size}')
    rows = np.frombuffer(data, np.uint8).reshape(-1, size)
    return _images(rows[:, before:]), _labels(rows[:, before - 1].astype(np.int64), classes)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _bytes(path: pathlib.Path) -> bytes:
  if not path.is_file():
    raise ValueError('no such file')
  if path.stat().st_size > _LIMIT:
    raise ValueError(f'{path.stat().st_size} bytes; up to {_LIMIT} are read')
  return path.read_bytes()


def _images(pixels: np.ndarray) -> np.ndarray:
  """Rows of planes, red first -> images with the channels last."""
  return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _labels(label: np.ndarray, classes: int) -> np.ndarray:
  wrong = np.flatnonzero((label < 0) | (label >= classes))
  if len(wrong):
    raise ValueError(f'row {wrong[0] + 1} has label {label[wrong[0]]} of {classes} classes')
  return label.astype(np.int32)
