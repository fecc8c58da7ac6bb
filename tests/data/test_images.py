"""Files of images: what is read, and that nothing else is, whatever a file says of itself."""

import collections
import gzip
import importlib.resources
import io
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from data_config import make

from kdjax import tasks
from kdjax.data import arrays, batches, cifar, images, sources, table

OWN = tasks.IMAGES['images']


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


# Tasks.


def digits(**changes):
  return sources.read(make(source='digits', **changes), tasks.IMAGES['digits'])


def test_the_digits_are_cut_by_class_and_by_seed():
  text = digits()
  assert list(text.splits) == ['train', 'validation', 'test']
  assert text.labels == tuple('0123456789')
  for split in text.splits.values():
    assert split.first.dtype == np.uint8 and split.first.shape[1:] == (8, 8, 1)
    assert split.first.max() == 255 and split.first.min() == 0
    np.testing.assert_array_equal(split.index, np.arange(len(split.label)))
    share = np.bincount(split.label, minlength=10) / len(split.label)
    assert np.abs(share - 0.1).max() < 0.01
  assert not np.array_equal(text.splits['test'].first, digits(seed=1).splits['test'].first)
  again = digits().splits['test']
  np.testing.assert_array_equal(again.first, text.splits['test'].first)


def test_the_digits_are_scikit_learn_s():
  from sklearn import datasets

  found = datasets.load_digits()
  want = collections.Counter(
    (x.astype(np.uint8).tobytes(), int(y)) for x, y in zip(found.images, found.target, strict=True)
  )
  got = collections.Counter(
    (np.round(x * (16 / 255)).astype(np.uint8).tobytes(), int(y))
    for split in digits().splits.values()
    for x, y in zip(split.first, split.label, strict=True)
  )
  assert got == want  # each image once, in one of the splits


def test_configs_and_tasks_name_the_same_images():
  from configs import common

  assert set(common.IMAGES) == set(tasks.IMAGES)


def test_own_files_are_npz_of_images_and_labels(rng, tmp_path):
  pixels, label = some(rng)
  names = np.array(['cat', 'dog', 'owl'])[label]
  np.savez(tmp_path / 'a.npz', images=pixels, labels=names)
  np.savez(tmp_path / 'b.npz', images=pixels[:4])
  config = make(train=tmp_path / 'a.npz', test=tmp_path / 'b.npz')
  text = sources.read(config, OWN)
  assert text.labels == ('cat', 'dog', 'owl')
  parts = text.splits
  assert [len(parts[s].first) for s in ('train', 'validation', 'test')] == [9, 3, 4]
  for split in ('train', 'validation'):
    np.testing.assert_array_equal(parts[split].first[..., 0], pixels[parts[split].index])
    np.testing.assert_array_equal(parts[split].label, label[parts[split].index])
  np.testing.assert_array_equal(parts['test'].label, -1)


def test_one_file_may_hold_a_benchmark(rng, tmp_path):
  pixels, label = some(rng, shape=(5, 4, 3))
  x, y = pixels / np.float32(255), label[:, None]
  np.savez(tmp_path / 'a.npz', x_train=x, y_train=y, x_test=x[:5], y_test=y[:5])
  text = sources.read(make(train=tmp_path / 'a.npz'), OWN)
  np.testing.assert_array_equal(text.splits['test'].first, pixels[:5])
  np.testing.assert_array_equal(text.splits['test'].label, label[:5])


def test_benchmarks_are_read_as_they_are_unpacked(rng, tmp_path):
  pixels, label = some(rng, 20, (28, 28), 10)
  for suffix, name in (('', 'mnist'), ('.gz', 'fashion_mnist')):
    for stem in ('train', 't10k'):
      where = tmp_path / name
      opened(where / f'{stem}-images-idx3-ubyte{suffix}', idx_bytes(pixels))
      opened(where / f'{stem}-labels-idx1-ubyte{suffix}', idx_bytes(label.astype(np.uint8)))
  color, fine = some(rng, 20, (32, 32, 3), 10)
  rows = planes(color)
  record = np.concatenate([fine[:, None], rows], 1).astype(np.uint8).tobytes()
  for i in range(1, 6):
    opened(tmp_path / f'py/cifar-10-batches-py/data_batch_{i}', old_pickle(rows, fine.tolist()))
    opened(tmp_path / f'bin/cifar-10-batches-bin/data_batch_{i}.bin', record)
  opened(tmp_path / 'py/cifar-10-batches-py/test_batch', old_pickle(rows, fine.tolist()))
  opened(tmp_path / 'bin/cifar-10-batches-bin/test_batch.bin', record)
  for split in ('train', 'test'):
    data = old_pickle(rows, fine.tolist(), b'fine_labels')
    opened(tmp_path / f'cifar100/cifar-100-python/{split}', data)
  for folder, name, x, y in (
    (tmp_path, 'mnist', pixels[..., None], label),
    (tmp_path, 'fashion_mnist', pixels[..., None], label),
    (tmp_path / 'py', 'cifar10', color, fine),
    (tmp_path / 'bin', 'cifar10', color, fine),
    (tmp_path, 'cifar100', color, fine),
  ):
    spec = tasks.IMAGES[name]
    text = sources.read(make(source='local', dir=folder), spec)
    assert list(text.splits) == ['train', 'validation', 'test']
    np.testing.assert_array_equal(text.splits['test'].first, x)
    np.testing.assert_array_equal(text.splits['test'].label, y)
    total = 100 if name == 'cifar10' else 20
    assert sum(len(text.splits[s].first) for s in ('train', 'validation')) == total


def test_floats_become_the_nearest_byte_and_integers_stay(rng):
  pixels, _ = some(rng)
  for dtype in (np.float16, np.float32, np.float64):
    got = images.bytes_of((pixels / 255).astype(dtype), 'here')
    np.testing.assert_array_equal(got[..., 0], pixels)
  for dtype in (np.int16, np.int64, '>u4'):
    np.testing.assert_array_equal(images.bytes_of(pixels.astype(dtype), 'here')[..., 0], pixels)


def test_what_is_wrong_with_own_files_is_said_with_the_file(rng, tmp_path):
  pixels, label = some(rng)
  wrong = (
    (dict(pictures=pixels), 'no images, labels nor x_train'),
    (dict(images=pixels), 'train has no labels'),
    (dict(images=pixels, labels=label[:-1]), '12 images and 11 labels'),
    (dict(images=pixels, labels=label[:, None, None]), 'no labels'),
    (dict(images=pixels[0], labels=label), 'are no images'),
    (dict(images=pixels[..., None].repeat(9, -1), labels=label), '1 to 4 channels'),
    (dict(images=pixels.astype(float), labels=label), 'must be from 0 to 1'),
    (dict(images=np.full(pixels.shape, np.nan), labels=label), 'nan'),
    (dict(images=pixels.astype(int) - 1000, labels=label), 'must be from 0 to 255'),
    (dict(images=pixels.astype(str), labels=label), 'not numbers'),
    (dict(images=pixels, labels=np.where(label == 2, -1, label)), 'row .* has no label'),
    (dict(x_val=pixels, y_val=label), 'needs arrays images and labels'),
  )
  for fields, said in wrong:
    np.savez(tmp_path / 'a.npz', **fields)
    with pytest.raises(ValueError, match=f'a.npz.*{said}'):
      sources.read(make(train=tmp_path / 'a.npz'), OWN)
  np.savez(tmp_path / 'a.npz', images=pixels, labels=label)
  np.savez(tmp_path / 'b.npz', images=pixels[:, :4], labels=label)
  np.savez(tmp_path / 'c.npz', images=pixels, labels=label + 1)
  for other, said in (('b', r'\(4, 4, 1\), not \(5, 4, 1\)'), ('c', "is '?3'?, which is none")):
    with pytest.raises(ValueError, match=said):
      sources.read(make(train=tmp_path / 'a.npz', validation=tmp_path / f'{other}.npz'), OWN)
  with pytest.raises(ValueError, match=r'\(5, 4, 1\), not \(28, 28, 1\)'):
    sources.read(make(train=tmp_path / 'a.npz'), tasks.IMAGES['mnist'])


def test_folders_without_the_benchmark_say_what_is_looked_for(tmp_path):
  for name, said in (
    ('mnist', 'train-images-idx3-ubyte: no such file'),
    ('cifar10', 'data_batch_1'),
    ('cifar100', 'cifar-100-python'),
    ('images', 'no images.npz'),
  ):
    with pytest.raises(ValueError, match=said):
      sources.read(make(source='local', dir=tmp_path), tasks.IMAGES[name])
  with pytest.raises(ValueError, match='no such folder'):
    sources.read(make(source='local', dir=tmp_path / 'x'), tasks.IMAGES['mnist'])
  with pytest.raises(ValueError, match='digits, tfds, local, files'):
    sources.read(make(source='hub'), tasks.IMAGES['mnist'])


def test_tfds_files_of_images_are_read_without_tensorflow(rng, tmp_path, monkeypatch):
  import tensorflow_datasets as tfds
  from PIL import Image
  from tensorflow_datasets.image_classification import mnist

  pixels, label = some(rng, 10, (28, 28, 1), 10)

  def generate_examples(self, *args):
    for i, (x, y) in enumerate(zip(pixels, label, strict=True)):
      Image.fromarray(x[..., 0]).save(tmp_path / f'{i}.png')  # as it is, TensorFlow would code it
      yield i, {'image': tmp_path / f'{i}.png', 'label': int(y)}

  def split_generators(self, manager):
    return {name: generate_examples(self) for name in ('train', 'test')}

  monkeypatch.setattr(mnist.MNIST, '_split_generators', split_generators)
  # What writes (and never what reads) needs this package on some versions of Python.
  monkeypatch.setitem(sys.modules, 'importlib_resources', importlib.resources)
  builder = tfds.builder('mnist', data_dir=str(tmp_path), file_format='array_record')
  builder.download_and_prepare()
  monkeypatch.undo()
  text = sources.read(make(source='tfds', dir=tmp_path), tasks.IMAGES['mnist'])
  test = text.splits['test']
  order = np.lexsort(test.first.reshape(10, -1).T)
  want = np.lexsort(pixels.reshape(10, -1).T)
  np.testing.assert_array_equal(test.first[order], pixels[want])
  np.testing.assert_array_equal(test.label[order], label[want])
  with pytest.raises(ValueError, match="not 'digits'"):
    sources.read(make(source='tfds'), tasks.IMAGES['digits'])


# Batches.


def test_a_batch_has_pixels_from_0_to_1_and_all_of_them_real(rng):
  pixels, label = some(rng, shape=(3, 2, 3))
  split = table.Table(pixels, None, label.astype(np.int32), np.arange(12, dtype=np.int32))
  data = images.dataset(split)
  seen = []
  for batch, real in batches.eval_batches(data, 5, (1, 4)):
    assert batch['tokens'].dtype == np.float32 and batch['tokens'].shape == (5, 6, 3)
    assert batch['mask'].all() and batch['maskable'].all() and not batch['segments'].any()
    assert {batch[k].shape for k in ('mask', 'maskable', 'segments')} == {(5, 6)}
    want = pixels[batch['index']].reshape(5, 6, 3) / 255
    np.testing.assert_allclose(batch['tokens'], want, rtol=1e-6)
    seen += list(batch['index'][:real])
  assert sorted(seen) == list(range(12))
  batch = next(batches.train_batches(data, 4, (), 0))
  np.testing.assert_array_equal(batch['label'], label[batch['index']])


def test_subsets_of_images_keep_rows_together(rng):
  pixels, label = some(rng, 30)
  split = table.Table(pixels, None, label.astype(np.int32), np.arange(30, dtype=np.int32))
  few = table.subset(split, 0.5, 9, 0)
  assert len(few.first) == 9 and isinstance(few.first, np.ndarray)
  np.testing.assert_array_equal(few.first, pixels[few.index])
  np.testing.assert_array_equal(few.label, label[few.index])
