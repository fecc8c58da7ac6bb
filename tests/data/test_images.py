"""Tasks of images: what their files and folders become."""

import collections
import importlib.resources
import sys

import numpy as np
import pytest
from data_config import make
from image_files import idx_bytes, old_pickle, opened, planes, some

from kdjax import tasks
from kdjax.data import batches, images, sources, table

OWN = tasks.IMAGES['images']


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


@pytest.mark.parametrize('kind', ['U', 'S'])
def test_own_files_are_npz_of_images_and_labels(rng, tmp_path, kind):
  pixels, label = some(rng)
  names = np.array(['cat', 'dog', 'owl']).astype(kind)[label]
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
