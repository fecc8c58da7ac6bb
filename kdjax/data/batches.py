"""Batches of a few fixed shapes: endless and resumable to train on, each row once to score."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kdjax.data import lengths
from kdjax.data import tokens as ids


class Dataset(NamedTuple):
  """One split, ready for a model.

  tokens: ids of the n rows, by the student's tokenizer; of images, pixels (images.dataset).
  label: i32[n], f32[n] or f32[n, C]; index: i32[n], row numbers in the source.
  ordinary: bool[V], ids that augmentation may change or write; None: images, all pixels.
  teacher: the same text by the teacher's own tokenizer, where it differs.
  group: rows that lie side by side here and stay so in a training batch: neighbouring text.
  block: rows that are shuffled together, about; 0: all. An epoch of larger data goes through its
    blocks in a seeded order, so that neither memory nor reading from a disk grows with the data.
  known: by key of the batch, f32[n, ...]: what the teacher says of each row (answers.known).
  """

  tokens: ids.Tokens
  label: np.ndarray
  index: np.ndarray
  ordinary: np.ndarray | None
  teacher: ids.Tokens | None = None
  group: int = 1
  block: int = 0
  known: Mapping[str, np.ndarray] = {}


def part(data: Dataset, rows: slice) -> Dataset:
  """Some rows of a data set."""
  cut = lambda ids: ids and type(ids)(*(a[rows] for a in ids))  # noqa: E731
  return data._replace(
    tokens=cut(data.tokens),
    teacher=cut(data.teacher),
    label=data.label[rows],
    index=data.index[rows],
    known={name: array[rows] for name, array in data.known.items()},
  )


Batch = dict[str, np.ndarray]
ALL = slice(None)
_DIGEST = 1 << 20
_PART = 1 << 12  # rows that are hashed together
# Looked up: XLA divides by a constant by multiplying with what is nearly its inverse.
_UNIT = np.arange(256, dtype=np.float32) / np.float32(255)
Plan = list[tuple[int, np.ndarray]]  # per batch: its length L, its rows
_ALL = 2**64 - 1  # in the place of a seed: what is drawn for all seeds alike


def steps_per_epoch(n: int, batch_size: int) -> int:
  """Whole batches in n rows.

  Raises:
    ValueError: not even one.
  """
  if batch_size < 1:
    raise ValueError(f'batch size is {batch_size}; it must be 1 or more')
  if n < batch_size:
    raise ValueError(
      f'{n} training rows do not fill one batch of {batch_size}: lower config.train.batch_size, or '
      'raise config.data.train_size or config.data.train_fraction'
    )
  return n // batch_size


def check_group(group: int, batch_size: int) -> None:
  """ValueError unless a batch holds whole groups."""
  if group < 1 or batch_size % group:
    raise ValueError(
      f'config.train.batch_size={batch_size} does not hold whole groups of config.data.neighbours='
      f'{group} rows: make it a multiple'
    )


def train_batches(
  data: Dataset, batch_size: int, buckets: Sequence[int], seed: int, start: int = 0, own=ALL
) -> Iterator[Batch]:
  """The batches of `train_plan`, built.

  own: the places in a batch that are built, where other hosts build the rest; index has all.

  Raises:
    ValueError: as train_plan.
  """
  plan = train_plan(data, batch_size, buckets, seed, start)
  return (host(data, rows, L, own) for L, rows in plan)


def train_plan(
  data: Dataset, batch_size: int, buckets: Sequence[int], seed: int, start: int = 0, run: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
  """(L, i64[B] places in data) of endless batches from number `start` on.

  A pure function of (data, seed, run, batch number). L, the length of the batch, is one of
  `lengths.upto(buckets, max_length)`.

  An epoch is floor(n / batch_size) batches and has no row twice; the n mod batch_size rows that it
  leaves out are drawn anew each epoch, whatever their length. With data.group = g, rows come in
  groups of g neighbours, each group whole and in order, and groups are what is shuffled.

  The seed decides which rows of one length fill which batch. The rows left out and the order of
  lengths and of blocks follow from the epoch alone: batch by batch, all seeds have one L.

  run: batches of one L that stand one after another, as many as there are up to this number; runs
  are what is shuffled.

  Raises:
    ValueError: fewer rows than batch_size, arrays of different sizes, or a batch of broken groups.
  """
  n = _check(data)
  check_group(data.group, batch_size)
  steps = steps_per_epoch(n, batch_size)
  if start < 0:
    raise ValueError(f'batch number {start} is below 0')
  shapes = lengths.upto(buckets, data.tokens.tokens.shape[1])
  return _endless(data, batch_size, shapes, seed, start, steps, run)


def _endless(
  data: Dataset, batch_size: int, shapes: tuple[int, ...], seed: int, start: int, steps: int, run
) -> Iterator[tuple[int, np.ndarray]]:
  epoch, skip = divmod(start, steps)
  while True:
    for rows, n, stream in _blocks(data, batch_size, epoch):
      if skip >= n:  # passed over unread
        skip -= n
        continue
      longest = _longest(data, rows)
      for L, chosen in _epoch(longest, batch_size, shapes, seed, stream, data.group, run)[skip:]:
        yield L, rows.start + chosen
      skip = 0
    epoch += 1


def _blocks(
  data: Dataset, batch_size: int, epoch: int
) -> Iterator[tuple[slice, int, tuple[int, ...]]]:
  """(rows, batches in them, its number) of each block of an epoch; one block where all fits."""
  n = len(data.index)
  steps = n // batch_size
  count = min(-(-n // data.block), steps) if data.block else 1
  if count == 1:
    yield slice(0, n), steps, (epoch,)
    return
  rng = np.random.default_rng((_ALL, epoch))
  # Whole batches to each block; what is over lies before the first and behind the last one.
  first = rng.integers(n % batch_size + 1)
  for k in rng.permutation(count):
    low, high = (steps * (k + i) // count for i in (0, 1))
    rows = slice(int(first + low * batch_size), int(first + high * batch_size))
    yield rows, int(high - low), (epoch, int(k))


def eval_batches(
  data: Dataset, batch_size: int, buckets: Sequence[int], own=ALL
) -> Iterator[tuple[Batch, int]]:
  """(batch, real rows in it), short rows first; each row of the data exactly once.

  Only the last batch may be partial: its first row is repeated to fill it, and only the first
  `real` rows count. Keys and shapes are those of `build`, own is that of train_batches.

  Raises:
    ValueError: arrays of different sizes.
  """
  n = _check(data)
  if batch_size < 1:
    raise ValueError(f'batch size is {batch_size}; it must be 1 or more')
  shapes = lengths.upto(buckets, data.tokens.tokens.shape[1])
  longest = _longest(data, slice(None))
  plan, rest = _group(np.argsort(longest, kind='stable'), longest, batch_size, shapes)
  for L, rows in plan:
    yield host(data, rows, L, own), batch_size
  if len(rest):
    L = shapes[np.searchsorted(shapes, longest[rest].max())]
    rows = np.concatenate([rest, np.repeat(rest[:1], batch_size - len(rest))])
    yield host(data, rows, L, own), n % batch_size


def _epoch(
  longest: np.ndarray,
  batch_size: int,
  shapes: tuple[int, ...],
  seed: int,
  number: tuple[int, ...],
  group: int,
  run: int,
) -> Plan:
  """The batches of some rows, numbered from 0, in a seeded order; number: of epoch and block."""
  of_all, own = (np.random.default_rng((first, *number)) for first in (_ALL, seed))
  n, size = len(longest) // group, batch_size // group
  over = len(longest) % group
  first = int(of_all.integers(over + 1)) if over else 0  # else the last rows would never be seen
  longest = longest[first : first + n * group].reshape(n, group).max(1)
  # What does not fill a batch is dropped before rows are grouped. Dropped after, it would always be
  # the longest rows.
  chosen = own.permutation(of_all.permutation(n)[: n - n % size])
  plan, _ = _group(chosen, longest, size, shapes)
  beside = np.arange(group)[None]
  runs = [
    own[i : i + run]
    for own in (list(found) for _, found in itertools.groupby(plan, lambda batch: batch[0]))
    for i in range(0, len(own), run)
  ]
  return [
    (L, (first + groups[:, None] * group + beside).reshape(-1))
    for k in of_all.permutation(len(runs))
    for L, groups in runs[k]
  ]


def _group(
  rows: np.ndarray, longest: np.ndarray, batch_size: int, shapes: tuple[int, ...]
) -> tuple[Plan, np.ndarray]:
  """Whole batches per length, and the rows left over.

  Rows of a length that do not fill a batch go on to the next longer one, so less than one batch is
  left over in all.
  """
  bucket = np.searchsorted(shapes, longest[rows])
  plan, rest = [], rows[:0]
  for k, L in enumerate(shapes):
    pool = np.concatenate([rest, rows[bucket == k]])
    whole = len(pool) - len(pool) % batch_size
    plan += [(L, part) for part in pool[:whole].reshape(-1, batch_size)]
    rest = pool[whole:]
  return plan, rest


def _longest(data: Dataset, rows: slice) -> np.ndarray:
  """i32[n]: the longer of the two tokenizers' lengths: both views of a batch have one L."""
  if data.teacher is None:
    return data.tokens.length[rows]
  return np.maximum(data.tokens.length[rows], data.teacher.length[rows])


def row_lengths(data: Dataset) -> np.ndarray:
  """i32[n], the length that each row asks of its batch, by its group: n without broken groups."""
  whole = len(data.index) // data.group * data.group
  each = _longest(data, slice(whole)).reshape(-1, data.group).max(1)
  return np.repeat(each, data.group)


def host(data: Dataset, rows: np.ndarray, L: int, own=ALL) -> Batch:
  """`build` of numpy arrays; own: the places that are built, index has all."""
  return build(data, rows[..., own], L) | dict(index=data.index[rows])


def build(data: Dataset, rows: np.ndarray, L: int) -> Batch:
  """The batch of these rows, [B] or with axes before it; of numpy arrays, or of jax's as it runs.

  tokens i32[B, L], segments i32[B, L], mask bool[B, L] (real positions), maskable bool[B, L] (real
  and ordinary), label, index i32[B]; with data.teacher also teacher_tokens, teacher_segments and
  teacher_mask; what is known, by its keys. Images: tokens f32[B, L, channels] in [0, 1], L pixels
  all of them real.
  """
  tokens_BL, segments_BL, mask_BL = _view(data.tokens, rows, L)
  batch = dict(
    tokens=tokens_BL,
    segments=segments_BL,
    mask=mask_BL,
    maskable=mask_BL if data.ordinary is None else mask_BL & data.ordinary[tokens_BL],
    label=data.label[rows],
    index=data.index[rows],
  )
  if data.teacher is not None:
    names = ('teacher_tokens', 'teacher_segments', 'teacher_mask')
    batch |= zip(names, _view(data.teacher, rows, L), strict=True)
  return batch | {name: array[rows] for name, array in data.known.items()}


def _view(
  tokens: ids.Tokens, rows: np.ndarray, L: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  places = np.arange(L, dtype=np.int32).reshape(*[1] * rows.ndim, L)
  mask_BL = places < tokens.length[rows][..., None]
  taken = tokens.tokens[rows, :L]
  if taken.dtype == np.uint8:  # pixels stay small until they are used
    taken = taken.__array_namespace__().take(_UNIT, taken)
  return taken, tokens.segments[rows, :L].astype(np.int32), mask_BL


def _check(data: Dataset) -> int:
  """The number of rows, the same in all arrays."""
  n, L = data.tokens.tokens.shape[:2]
  sizes = [len(data.tokens.length), len(data.label), len(data.index)]
  if data.teacher is not None:
    sizes.append(len(data.teacher.length))
    if data.teacher.tokens.shape != (n, L):
      raise ValueError(
        f"teacher's tokens are {data.teacher.tokens.shape}, student's {(n, L)}: tokenise both with "
        'one max_length'
      )
  if any(size != n for size in sizes):
    raise ValueError(f'tokens have {n} rows, length, label, index (and teacher) {sizes}')
  return n


def digest(data: Dataset) -> str:
  """Hex digest of what a split holds; of ids, no more rows than _DIGEST, evenly spaced."""
  found = hashlib.sha256()
  step = 1 + len(data.index) // _DIGEST
  arrays = [data.label, data.index]
  for view in (data.tokens, data.teacher):
    arrays += [view.length, view.tokens[::step], view.segments[::step]] if view else []
  for array in arrays:
    found.update(f'{array.shape} {array.dtype}'.encode())
    hashed(found, array)
  return found.hexdigest()


def hashed(found, array: np.ndarray) -> None:
  """Adds an array to a hash; a part at a time, as it may be on disk, or one zero for all."""
  for start in range(0, len(array), _PART):
    found.update(np.ascontiguousarray(array[start : start + _PART]))
