"""Rows without a label: a corpus, alone or beside a task's rows, and new pairs of its texts."""

import pathlib

import numpy as np

from kdjax import tasks
from kdjax.data import batches, corpus, pairs, sources, tokens


def beside(c) -> bool:
  """Whether rows without a label may come beside those of train."""
  return bool(c.data.unlabelled or c.data.new_pairs)


def check(c, spec: tasks.Spec, masked: bool) -> None:
  """ValueError where unlabelled text is not for the task or the method, or is missing."""
  if not masked and not spec.label:
    raise ValueError(
      f'{c.name} learns from labels, and config.data.unlabelled={c.data.unlabelled!r} has none: '
      'mlm, mlm_kd and codir_pre train on such text alone, others beside config.data.train'
    )
  if c.data.unlabelled and spec.images:
    raise ValueError(f'config.data.unlabelled={c.data.unlabelled!r} is text, the task is of images')
  if c.data.unlabelled and not masked and len(spec.columns) > 1 and not c.data.pair:
    raise ValueError(
      f'task {spec.name} reads pairs: name the second column of config.data.unlabelled='
      f'{c.data.unlabelled!r} in config.data.pair (its first is config.data.text={c.data.text!r})'
    )
  if c.data.new_pairs and (masked or len(spec.columns) < 2):
    what = (
      'masked language models ask no teacher of them' if masked else 'its rows are single texts'
    )
    raise ValueError(
      f'config.data.new_pairs={c.data.new_pairs} is for tasks of pairs and their teacher; '
      f'{spec.name}: {what}: set it to 0'
    )
  if c.data.neighbours > 1 and not masked:
    raise ValueError(
      f'config.data.neighbours={c.data.neighbours} is for masked language models: set it to 1'
    )
  if c.data.neighbours > 1 and not c.data.unlabelled:
    raise ValueError(
      f'config.data.neighbours={c.data.neighbours} is of config.data.unlabelled, which is empty: '
      'the rows of a task are no neighbours'
    )
  batches.check_group(c.data.neighbours, c.train.batch_size)
  if c.data.neighbours > 1 and c.train.accumulate > 1:
    raise ValueError(
      f'config.train.accumulate={c.train.accumulate} deals the rows of a batch out, and parts the '
      f'config.data.neighbours={c.data.neighbours}: set one of them to 1'
    )


def alone(
  c, text: sources.Text, reader, usable: np.ndarray, folder: pathlib.Path
) -> tuple[sources.Text, batches.Dataset]:
  """(text, with a validation split held out of the corpus where it had none; rows to learn from).

  reader: a tokenizer. usable: as batches.Dataset has it. folder: where token ids are kept.
  """
  train = text.splits.get('train')
  found = corpus.read(c.data, reader, folder, train, not text.splits)
  data = batches.Dataset(
    found.tokens,
    np.broadcast_to(np.int32(-1), found.index.shape),
    found.index,
    usable,
    group=c.data.neighbours,
    block=corpus.BLOCK,
  )
  splits = {name: split for name, split in text.splits.items() if name != 'train'}
  if found.held:
    splits['validation'] = found.held
  return text._replace(splits=splits, origin=f'{text.origin} {found.origin}'), data


def beside_train(
  c, spec: tasks.Spec, text: sources.Text, readers: list, usable: np.ndarray, folder: pathlib.Path
) -> tuple[sources.Text, batches.Dataset]:
  """(text with its origin, rows to learn from): those of a corpus, new pairs, then train's.

  The first two have no labels. They lie on disk, and are shuffled as one.

  Args:
    readers: the student's tokenizer, and the teacher's where it is another.
    usable, folder: as above.
  """
  if 'train' not in text.splits:
    raise ValueError(
      f'config.data.unlabelled={c.data.unlabelled!r} and new_pairs={c.data.new_pairs} go beside a '
      f'train split, and task {spec.name} has none in {text.origin}'
    )
  rows, origin = text.splits['train'], text.origin
  if c.data.new_pairs:
    none = spec.kind, spec.num_labels
    new = pairs.anew(text.splits, c.data.new_pairs, c.data.seed, *none, readers[0].tokenize)
    rows, origin = sources.join(new, rows), f'{origin} {len(new.first):,} new pairs of its texts.'
  if c.data.unlabelled:
    own = c.data.copy_and_resolve_references()
    own.pack = False
    pair = c.data.pair if len(spec.columns) > 1 else ''
    found = [corpus.read(own, one, folder, rows, pair=pair) for one in readers]
    views, origin = [each.tokens for each in found], f'{origin} {found[0].origin}'
  else:
    views = [tokens.tokenise(rows, one, c.data.max_length, folder) for one in readers]
  n = len(views[0].length)
  none = sources.unlabelled(n - len(rows.label), spec.kind, spec.num_labels)
  data = batches.Dataset(
    views[0],
    np.concatenate([none, rows.label]),
    np.arange(n, dtype=np.int32),
    usable,
    views[1] if len(views) > 1 else None,
  )
  return text._replace(origin=origin), data
