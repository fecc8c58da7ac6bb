"""Bytes of files of images, as others write them."""

import gzip
import struct

import numpy as np


def idx_bytes(array, kind=8):
  shape = struct.pack(f'>{array.ndim}I', *array.shape)
  return bytes([0, 0, kind, array.ndim]) + shape + array.tobytes()


def opened(path, data):
  """A file of these bytes, gzipped where its name says so."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return path


def some(rng, n=12, shape=(5, 4), classes=3):
  """(images u8, labels) with every class."""
  label = rng.permutation(np.arange(n) % classes)
  return rng.integers(0, 256, (n, *shape), np.uint8), label


def old_pickle(data: np.ndarray, label: list[int], field=b'labels') -> bytes:
  """A batch as Python 2 wrote it, instruction by instruction: protocol 2, byte strings."""

  def text(s: bytes) -> bytes:
    return b'U' + bytes([len(s)]) + s if len(s) < 256 else b'T' + struct.pack('<i', len(s)) + s

  def number(n: int) -> bytes:
    return b'K' + bytes([n]) if 0 <= n < 256 else b'J' + struct.pack('<i', n)

  shape = b''.join(map(number, data.shape))
  dtype = b'cnumpy\ndtype\nq\x05(' + text(b'u1') + number(0) + number(1) + b'tRq\x06'
  dtype += b'(' + number(3) + text(b'|') + b'NNN' + number(-1) + number(-1) + number(0) + b'tb'
  array = b'cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04'
  array += number(0) + b'\x85' + text(b'b') + b'\x87R'
  array += b'(' + number(1) + b'(' + shape + b't' + dtype + b'\x89' + text(data.tobytes()) + b'tb'
  out = b'\x80\x02}q\x01(' + text(b'batch_label') + text(b'training batch 1 of 5')
  out += text(field) + b']q\x02(' + b''.join(map(number, label)) + b'e'
  out += text(b'data') + array + text(b'filenames') + b']' + text(b'a.png') + b'a' + b'u.'
  return out


def planes(pixels):
  """Images [n, 32, 32, 3] as CIFAR lays them out."""
  return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), -1)
