"""What is read of a file of images, and that nothing else is, whatever it says of itself."""

import collections
import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from image_files import idx_bytes, old_pickle, opened, planes, some

from kdjax.data import arrays, cifar

# idx.


@pytest.mark.parametrize('suffix', ['', '.gz'])
@pytest.mark.parametrize('shape', [(7,), (2, 3), (4, 5, 6), (2, 3, 4, 3)], ids=str)
def test_idx_gives_back_what_was_written(rng, tmp_path, shape, suffix):
  want = rng.integers(0, 256, shape, np.uint8)
  got = arrays.idx(opened(tmp_path / f'a{suffix}', idx_bytes(want)))
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got, want)


BAD_IDX = {
  'ends within its header': bytes([0, 0, 8, 3]) + b'\0' * 5,
  'no idx file': b'PNG\r' + b'\0' * 20,
  'no idx file of 1': bytes([0, 0, 8, 0]),
  'no idx file of 1 to 4': bytes([0, 0, 8, 200]) + b'\0' * 800,
  'only unsigned bytes': bytes([0, 0, 0x0D, 1, 0, 0, 0, 1]) + b'\0' * 4,
  'has 3': bytes([0, 0, 8, 1, 0, 0, 0, 4]) + b'abc',
  'has more': bytes([0, 0, 8, 1, 0, 0, 0, 2]) + b'abc',
  'from 1 to': bytes([0, 0, 8, 4]) + b'\xff' * 16,
  'from 1 to .* are read': bytes([0, 0, 8, 2]) + b'\0' * 8,
  'has 1': bytes([0, 0, 8, 1]) + struct.pack('>I', 1 << 31) + b'a',
}


@pytest.mark.parametrize('suffix', ['', '.gz'])
@pytest.mark.parametrize('said', BAD_IDX)
def test_idx_files_that_lie_are_named_and_cost_no_memory(tmp_path, said, suffix):
  path = opened(tmp_path / f'bad{suffix}', BAD_IDX[said])
  tracemalloc.start()
  with pytest.raises(ValueError, match=rf'bad{suffix}: .*{said}'):
    arrays.idx(path)
  assert tracemalloc.get_traced_memory()[1] < 1 << 23
  tracemalloc.stop()


def test_a_missing_file_is_said():
  for read in (
    arrays.idx,
    arrays.npz,
    lambda p: cifar.batch(p, 10),
    lambda p: cifar.records(p, 10),
  ):
    with pytest.raises(ValueError, match='nowhere: no such file'):
      read('nowhere')


# npz.


def test_npz_gives_back_numbers_and_text(rng, tmp_path):
  want = dict(
    a=rng.integers(0, 256, (3, 4), np.uint8),
    b=np.asfortranarray(rng.random((4, 2, 3))),
    c=np.array(['x', 'yy']),
    d=np.array([3, -1], '>i8'),
  )
  for save in (np.savez, np.savez_compressed):
    save(tmp_path / 'a.npz', **want)
    got = arrays.npz(tmp_path / 'a.npz')
    assert got.keys() == want.keys()
    for name, value in want.items():
      np.testing.assert_array_equal(got[name], value)


def test_npz_runs_no_pickle(tmp_path):
  ran = tmp_path / 'ran'

  class Attack:
    def __reduce__(self):
      return os.mkdir, (str(ran),)

  np.savez(tmp_path / 'a.npz', images=np.array([Attack()], object))
  with pytest.raises(ValueError, match=r'a.npz: images.npy holds object'):
    arrays.npz(tmp_path / 'a.npz')
  (tmp_path / 'b.npz').write_bytes(pickle.dumps(Attack()))
  with pytest.raises(ValueError, match=r'b.npz: '):
    arrays.npz(tmp_path / 'b.npz')
  assert not ran.exists()


def test_npz_members_that_lie_are_named_and_cost_no_memory(tmp_path):
  def member(shape, data, descr='|u1'):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, dict(descr=descr, fortran_order=False, shape=shape))
    return file.getvalue() + data

  lies = {
    'has 2': member((1 << 30,), b'ab'),
    'has more': member((2,), b'abc'),
    'from 1 to': member((1 << 40,), b'ab'),
    'only numbers': member((-2, -3), b'abcdef'),
    'no NumPy array': b'\x93NUMPY\x01\x00\xff\xff{',
    'is no NumPy': b'nothing of the kind',
    'version': b'\x93NUMPY\x09\x00',
  }
  for said, data in lies.items():
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w', zipfile.ZIP_DEFLATED) as z:
      z.writestr('x.npy', data)
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf'a.npz: x.npy .*{said}'):
      arrays.npz(tmp_path / 'a.npz')
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


# CIFAR.


def test_batches_of_python_2_and_3_give_images_with_channels_last(rng, tmp_path):
  pixels, label = some(rng, 7, (32, 32, 3), 5)
  rows = planes(pixels)
  label = label.tolist()
  new = pickle.dumps({b'data': rows, b'labels': label}, 3)
  hundred = old_pickle(rows, label, b'fine_labels')
  for data in (old_pickle(rows, label), new, hundred):
    got, names = cifar.batch(opened(tmp_path / 'batch', data), 10)
    np.testing.assert_array_equal(got, pixels)
    np.testing.assert_array_equal(names, label)
  # What was written above is a pickle that Python itself reads alike.
  whole = pickle.loads(old_pickle(rows, label), encoding='bytes')
  np.testing.assert_array_equal(whole[b'data'], rows)


@pytest.mark.parametrize('coarse', [0, 1])
def test_records_give_images_with_channels_last(rng, tmp_path, coarse):
  pixels, label = some(rng, 6, (32, 32, 3), 6)
  rows = np.concatenate([np.zeros((6, coarse), np.uint8), label[:, None], planes(pixels)], 1)
  path = opened(tmp_path / 'a.bin', rows.astype(np.uint8).tobytes())
  got, names = cifar.records(path, 100 if coarse else 10)
  np.testing.assert_array_equal(got, pixels)
  np.testing.assert_array_equal(names, label)
  opened(path, rows.astype(np.uint8).tobytes()[:-1])
  with pytest.raises(ValueError, match=r'a.bin: .*whole records'):
    cifar.records(path, 100 if coarse else 10)
  rows[4, coarse] = 200
  with pytest.raises(ValueError, match='row 5 has label 200 of'):
    cifar.records(opened(path, rows.astype(np.uint8).tobytes()), 100 if coarse else 10)


def attacks(ran):
  """Pickles that would do something, or ask for memory, and what is said of each."""

  class System:
    def __reduce__(self):
      return os.mkdir, (str(ran),)

  class Evaluate:
    def __reduce__(self):
      return eval, (f'__import__("os").mkdir({str(ran)!r})',)

  for protocol in range(2, 6):
    yield pickle.dumps({b'data': System()}, protocol), 'mkdir|EMPTY|refused'
    yield pickle.dumps(Evaluate(), protocol), 'eval'
  yield b'cnumpy\nload\n.', 'numpy.load'
  yield b'cnumpy.core.multiarray\nscalar\n.', 'scalar'
  yield b'\x80\x02c__builtin__\ngetattr\n(cnumpy\nndarray\nU\x08__init__tR.', 'getattr'
  yield pickle.dumps(bytearray(9), 5), 'BYTEARRAY8'
  yield b'\x96' + struct.pack('<Q', 1 << 40) + b'.', 'refused|damaged|bytes'
  yield b'Nr' + struct.pack('<I', (1 << 31) - 1) + b'.', 'numbers'
  yield b'(i__main__\nX\n.', 'INST'
  yield b'N\x82\x01.', 'EXT1'
  yield b'U\x01aQ.', 'BINPERSID'
  yield pickle.dumps(collections.OrderedDict(a=1), 2), 'OrderedDict'
  yield pickle.dumps({b'data': np.zeros(2, object)}, 3), 'its array|data and labels'


def test_pickles_that_do_anything_are_refused_by_name(tmp_path):
  ran = tmp_path / 'ran'
  for data, said in attacks(ran):
    with pytest.raises(ValueError, match=rf'(?s)batch: .*({said})'):
      cifar.batch(opened(tmp_path / 'batch', data), 10)
    assert not ran.exists()


def test_batches_that_are_none_are_named(rng, tmp_path):
  rows = rng.integers(0, 256, (3, 3072), np.uint8)
  wrong = {
    'holds a list': [1, 2],
    'no data and labels': {b'data': rows},
    'not all integers': {b'data': rows, b'labels': [1, 2, b'x']},
    'has label 10 of 10': {b'data': rows, b'labels': [0, 10, 1]},
    'has label -1': {b'data': rows, b'labels': [0, -1, 1]},
    'for 2 labels': {b'data': rows, b'labels': [0, 1]},
    'pixels for': {b'data': rows[:, :9], b'labels': [0, 1, 2]},
    'unsigned bytes': {b'data': rows.astype(np.int16), b'labels': [0, 1, 2]},
    'unsigned bytes in rows': {b'data': np.asfortranarray(rows), b'labels': [0, 1, 2]},
  }
  for said, value in wrong.items():
    with pytest.raises(ValueError, match=f'batch: .*{said}'):
      cifar.batch(opened(tmp_path / 'batch', pickle.dumps(value, 3)), 10)


def test_damaged_files_are_read_or_named_and_nothing_else(rng, tmp_path):
  pixels, label = some(rng, 4, (32, 32, 3))
  np.savez_compressed(tmp_path / 'z', images=pixels, labels=label)
  whole = {
    arrays.idx: idx_bytes(pixels),
    arrays.npz: (tmp_path / 'z.npz').read_bytes(),
    lambda p: cifar.batch(p, 10): old_pickle(planes(pixels), label.tolist()),
    lambda p: cifar.records(p, 10): bytes(3073 * 4),
  }
  read, named = 0, 0
  for reader, data in whole.items():
    for n in range(120):
      bad = bytearray(data)
      if n % 3 == 0:
        del bad[rng.integers(len(bad)) :]
      elif n % 3 == 1:  # where the structure is: at the beginning and the end
        for i in rng.integers(0, 200, 3):
          bad[i if rng.random() < 0.7 else -i - 1] = rng.integers(256)
      else:
        bad = bytearray(rng.bytes(rng.integers(1, 400)))
      path = opened(tmp_path / 'file', bytes(bad))
      for name in (path, opened(tmp_path / 'file.gz', bytes(bad)) if n < 40 else path):
        try:
          reader(name)
          read += 1
        except ValueError as error:
          assert str(error).startswith(str(name)), error
          named += 1
  assert named > 200
