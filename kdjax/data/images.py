"""Where images come from, and how a model gets them: rows of pixels in the place of tokens.

Images are u8[n, H, W, C] until a batch is made of them; there, f32 in [0, 1].
"""

import pathlib
from collections.abc import Callable

import numpy as np

from kdjax import tasks
from kdjax.data import arrays, batches, cifar, hub, labels, table, tokens

Split = tuple[np.ndarray, list | np.ndarray | None]  # images, labels
_IDX = {'train': 'train', 'test': 't10k'}
_FRACTION = 0.2  # of the digits to test, and of the rest to validation


def read(c, spec: tasks.Spec) -> table.Text:
  """All splits of a task of images; validation is held out of train where there is none.

  Args:
    c: config.data, as for text.
    spec: shape and class names, or () where they are the data's.

  Raises:
    ValueError: anything wrong with the data; the message names file, row and the remedy.
  """
  if c.source not in SOURCES:
    raise ValueError(
      f'config.data.source is {c.source!r}; for images it is one of {", ".join(SOURCES)}'
    )
  found, where = SOURCES[c.source](c, spec)
  _, label = found['train']
  if label is None:
    raise ValueError(f'{where}: train has no labels')
  names = spec.labels or labels.infer(label, 'classes')
  shape, splits = spec.shape, {}
  for name, (pixels, label) in found.items():
    pixels = bytes_of(pixels, f'{where}: {name}')
    shape = shape or pixels.shape[1:]
    if pixels.shape[1:] != shape:
      raise ValueError(f'{where}: {name} has images of {pixels.shape[1:]}, not {shape}')
    if label is None and name != 'test':
      raise ValueError(f'{where}: {name} has no labels, and only a test split may lack them')
    n = len(pixels)
    if label is not None and len(label) != n:
      raise ValueError(f'{where}: {name} has {n} images and {len(label)} labels')
    known = [None] * n if label is None else label
    number = labels.classes(known, names, f'{where}: {name}', name == 'test')
    splits[name] = table.Table(pixels, None, number, np.arange(n, dtype=np.int32))
  if 'validation' not in splits:
    rest, held = table.hold_out(splits['train'], c.validation_fraction, c.seed, 'classes')
    splits = {'train': rest, 'validation': held} | {
      name: split for name, split in splits.items() if name != 'train'
    }
  return table.Text(splits, names, f'{spec.name}: {where}.')


def bytes_of(pixels: np.ndarray, where: str) -> np.ndarray:
  """u8[n, H, W, C], as `numbers_of` takes them; floats in 255 steps."""
  found = numbers_of(pixels, where)
  return found if found.dtype == np.uint8 else np.round(found * 255).astype(np.uint8)


def numbers_of(pixels: np.ndarray, where: str) -> np.ndarray:
  """u8[n, H, W, C] of bytes or of integers from 0 to 255; f32 of floats in [0, 1].

  [n, H, W] has one channel.

  Raises:
    ValueError: another shape, type or range.
  """
  pixels = np.asarray(pixels)
  if pixels.ndim == 3:
    pixels = pixels[..., None]
  if pixels.ndim != 4 or not all(pixels.shape[1:]) or pixels.shape[-1] > 4:
    raise ValueError(
      f'{where}: {pixels.shape} are no images [n, height, width] or [n, height, width, channels] '
      'of 1 to 4 channels'
    )
  if pixels.dtype == np.uint8:
    return pixels
  if pixels.dtype.kind not in 'uif':
    raise ValueError(f'{where}: pixels are {pixels.dtype}, not numbers')
  high = 1 if pixels.dtype.kind == 'f' else 255
  if pixels.size and not (pixels.min() >= 0 and pixels.max() <= high):  # nor NaN
    raise ValueError(
      f'{where}: pixels are from {pixels.min()} to {pixels.max()}; {pixels.dtype} must be from 0 '
      f'to {high}'
    )
  return pixels.astype(np.float32 if high == 1 else np.uint8)


def dataset(split: table.Table) -> batches.Dataset:
  """A split as a model reads it: pixels in rows, [n, H * W, C], all real and all free to move."""
  n, H, W, C = split.first.shape
  # No text segments; and one zero serves for all.
  none = np.broadcast_to(np.int32(0), (n, H * W))
  pixels = tokens.Tokens(split.first.reshape(n, H * W, C), none, np.full(n, H * W, np.int32))
  return batches.Dataset(pixels, split.label, split.index, None)


def _digits(c, spec: tasks.Spec) -> tuple[dict[str, Split], str]:
  from sklearn import datasets

  found = datasets.load_digits()
  pixels = np.round(found.images[..., None] * (255 / 16)).astype(np.uint8)
  label = found.target.astype(np.int32)
  rest = table.Table(pixels, None, label, np.arange(len(label), dtype=np.int32))
  parts = {}
  for name in ('test', 'validation'):
    rest, parts[name] = table.hold_out(rest, _FRACTION, c.seed, 'classes')
  parts = {'train': rest, 'validation': parts['validation'], 'test': parts['test']}
  return {name: (p.first, p.label) for name, p in parts.items()}, "scikit-learn's digits"


def _tfds(c, spec: tasks.Spec) -> tuple[dict[str, Split], str]:
  return hub.tfds_images(spec.name, c.dir), 'TensorFlow Datasets'


def _files(c, spec: tasks.Spec) -> tuple[dict[str, Split], str]:
  """config.data.train and the others: npz files of `images` and `labels`.

  That of train may have all of a benchmark: x_train, y_train, x_test, y_test.
  """
  paths = {name: c[name] for name in ('train', 'validation', 'test') if c[name]}
  if 'train' not in paths:
    raise ValueError("config.data.source='files' reads config.data.train, which is empty")
  out = {}
  for name, path in paths.items():
    found = _npz(path)
    if 'images' in found:
      out[name] = found['images']
    elif name == 'train' and 'train' in found:
      out = found | out
    else:
      raise ValueError(f'{path}: {name} needs arrays images and labels')
  return out, ', '.join(str(path) for path in paths.values())


def _npz(path: str) -> dict[str, Split]:
  """'images' -> of a file of one split; or split -> of a file of several."""
  found = arrays.npz(path)
  pairs = {'images': ('images', 'labels')} | {
    split: (f'x_{short}', f'y_{short}')
    for split, short in (('train', 'train'), ('validation', 'val'), ('test', 'test'))
  }
  out = {}
  for name, (x, y) in pairs.items():
    if x in found:
      out[name] = found[x], (_column(found[y], f'{path}: {y}') if y in found else None)
  if not out:
    raise ValueError(f'{path}: no images, labels nor x_train, y_train in {", ".join(found)}')
  return out


def _column(label: np.ndarray, where: str) -> list:
  if label.ndim == 2 and label.shape[1] == 1:
    label = label[:, 0]
  if label.ndim != 1:
    raise ValueError(f'{where}: {label.shape} are no labels [n]')
  if label.dtype.kind == 'S':  # names as numpy keeps bytes
    label = np.char.decode(label, 'utf8')
  return label.tolist()


def _local(c, spec: tasks.Spec) -> tuple[dict[str, Split], str]:
  """<dir>/<task>, or <dir> itself: the benchmark's own files, or <task>.npz."""
  if not c.dir:
    raise ValueError("config.data.source='local' reads <dir>/<task>: set config.data.dir")
  folder = pathlib.Path(c.dir)
  if not folder.is_dir():
    raise ValueError(f'{folder}: no such folder')
  if (folder / spec.name).is_dir():
    folder /= spec.name
  if (folder / f'{spec.name}.npz').is_file():
    found = _npz(str(folder / f'{spec.name}.npz'))
  else:
    if spec.name not in _BENCHMARKS:
      raise ValueError(f'{folder}: no {spec.name}.npz, which is all that is read of this task')
    found = _BENCHMARKS[spec.name](folder, spec)
  if 'train' not in found:
    raise ValueError(f'{folder}: no train split of {spec.name}')
  return found, str(folder)


def _idx(folder: pathlib.Path, spec: tasks.Spec) -> dict[str, Split]:
  out = {}
  for split, stem in _IDX.items():
    pair = [
      _either(folder, f'{stem}-images-idx3-ubyte'),
      _either(folder, f'{stem}-labels-idx1-ubyte'),
    ]
    pixels, label = map(arrays.idx, pair)
    if pixels.ndim != 3 or label.ndim != 1:
      raise ValueError(
        f'{pair[0]} is {pixels.shape}, {pair[1]} {label.shape}: no images and labels'
      )
    out[split] = pixels, label.tolist()
  return out


def _either(folder: pathlib.Path, name: str) -> pathlib.Path:
  """The file, or the same gzipped; the former where there is neither, for the error."""
  packed = folder / f'{name}.gz'
  return packed if packed.is_file() else folder / name


def _cifar(folder: pathlib.Path, spec: tasks.Spec) -> dict[str, Split]:
  """Batches as they are unpacked: pickled, or plain records."""
  ten = spec.name == 'cifar10'
  plain = {
    'train': [f'data_batch_{i}.bin' for i in range(1, 6)] if ten else ['train.bin'],
    'test': ['test_batch.bin'] if ten else ['test.bin'],
  }
  pickled = {split: [n.removesuffix('.bin') for n in names] for split, names in plain.items()}
  ways = (
    (pickled, cifar.batch, 'cifar-10-batches-py' if ten else 'cifar-100-python'),
    (plain, cifar.records, 'cifar-10-batches-bin' if ten else 'cifar-100-binary'),
  )
  for names, reader, inner in ways:
    for place in (folder, folder / inner):
      if (place / names['train'][0]).is_file():
        return {
          split: tuple(
            map(
              np.concatenate, zip(*(reader(place / f, spec.num_labels) for f in files), strict=True)
            )
          )
          for split, files in names.items()
        }
  raise ValueError(
    f'{folder}: no {spec.name}.npz, no {pickled["train"][0]} and no {plain["train"][0]} (nor in '
    f'{ways[0][2]} or {ways[1][2]})'
  )


_BENCHMARKS = dict(mnist=_idx, fashion_mnist=_idx, cifar10=_cifar, cifar100=_cifar)

SOURCES: dict[str, Callable[..., tuple[dict[str, Split], str]]] = {
  'digits': _digits,
  'tfds': _tfds,
  'local': _local,
  'files': _files,
}
