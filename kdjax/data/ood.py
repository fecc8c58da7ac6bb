"""Data sets on which models of a task are tested, and none is trained: another domain, or probes.

A set with fewer classes than the task: the task's classes are merged after the model has chosen
one of them (the class with the highest logit), as HANS's authors do.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from kdjax.data import files, hub, labels, sources


class Set(NamedTuple):
  """One of them.

  task: whose models are tested. classes: in id order. merge: by class of the task, the set's.
  splits: the first that is there is read. groups: a column; accuracies are also by its values.
  hub: (data set, configuration, split); () where only a folder has it.
  """

  task: str
  columns: tuple[str, ...]
  classes: tuple[str, ...]
  merge: tuple[int, ...]
  splits: tuple[str, ...] = ('test',)
  groups: str = ''
  hub: tuple[str, str | None, str] | tuple[()] = ()


class Test(NamedTuple):
  """A set that was read.

  table: label i32[n] in the set's own classes. merge: i32[C], from the task's. group: str[n], where
  the set has such a column.
  """

  table: sources.Table
  merge: np.ndarray
  classes: tuple[str, ...]
  group: np.ndarray | None


_SENTIMENT = ('negative', 'positive')
_PAIR = ('premise', 'hypothesis')
_NLI = ('entailment', 'neutral', 'contradiction')
_SAME = ('not_duplicate', 'duplicate')
_HANS = Set(
  'mnli', _PAIR, ('entailment', 'non-entailment'), (0, 1, 1), ('validation', 'test'), 'heuristic'
)

SETS: dict[str, Set] = dict(
  imdb=Set(
    'sst2', ('text',), _SENTIMENT, (0, 1), hub=('stanfordnlp/imdb', None, 'test')
  ),
  cad_imdb_original=Set('sst2', ('text',), _SENTIMENT, (0, 1)),
  cad_imdb_revised=Set('sst2', ('text',), _SENTIMENT, (0, 1)),
  hans=_HANS,
  hans_regenerated=_HANS,  # by the authors' generator; not the published file
  scitail=Set(
    'mnli', _PAIR, ('entails', 'neutral'), (0, 1, 1), hub=('allenai/scitail', 'tsv_format', 'test')
  ),
  sick=Set('mnli', _PAIR, _NLI, (0, 1, 2), ('test', 'all')),
  cad_nli_original=Set('mnli', _PAIR, _NLI, (0, 1, 2)),
  cad_nli_revised_premise=Set('mnli', _PAIR, _NLI, (0, 1, 2)),
  paws_qqp=Set('qqp', ('question1', 'question2'), _SAME, (0, 1)),
  paws_wiki=Set(
    'qqp', ('sentence1', 'sentence2'), _SAME, (0, 1),
    hub=('google-research-datasets/paws', 'labeled_final', 'test'),
  ),
)  # fmt: skip


def names(wanted: str, task: str) -> list[str]:
  """Of sets by commas, those for models of a task.

  Raises:
    ValueError: one that does not exist.
  """
  each = [name.strip() for name in wanted.split(',') if name.strip()]
  unknown = [name for name in each if name not in SETS]
  if unknown:
    raise ValueError(f'config.grid.ood names {", ".join(unknown)}: none of {", ".join(SETS)}')
  return [name for name in each if SETS[name].task == task]


def read(name: str, folder: str, rows: int = 0) -> Test:
  """One set, from <folder>/<name>/<split>.(parquet|jsonl|tsv|csv), or the hub where folder is ''.

  Args:
    rows: at most so many, a seeded choice; 0: all.

  Raises:
    ValueError: it is not there, lacks a column, or has a row without text or label.
  """
  own = SETS[name]
  where, columns = _columns(name, own, folder)
  wanted = [*own.columns, 'label', *([own.groups] if own.groups else [])]
  missing = [column for column in wanted if column not in columns]
  if missing:
    raise ValueError(f'{where}: no column {", ".join(missing)}; it has {", ".join(columns)}')
  texts = [sources.strings(columns[c], f'{where}: column {c!r}') for c in own.columns]
  label = labels.classes(columns['label'], own.classes, f"{where}: column 'label'", False)
  index = np.arange(len(label), dtype=np.int32)
  table = sources.Table(texts[0], texts[1] if len(texts) > 1 else None, label, index)
  table = sources.subset(table, 1.0, rows, 0)
  group = np.array(columns[own.groups], dtype=str)[table.index] if own.groups else None
  return Test(table, np.array(own.merge, np.int32), own.classes, group)


def _columns(name: str, own: Set, folder: str) -> tuple[str, files.Columns]:
  if folder:
    there = [
      path
      for split in own.splits
      for kind in files.READS
      if (path := pathlib.Path(folder) / name / f'{split}{kind}').is_file()
    ]
    if there:
      return str(there[0]), files.read(there[0])
    raise ValueError(
      f'{folder}/{name}/: no {" or ".join(own.splits)} in {", ".join(files.READS)}: put it there '
      '(config.grid.ood_dir), or take it out of config.grid.ood'
    )
  if not own.hub:
    raise ValueError(
      f'{name} is on no hub in a form that can be read: put <dir>/{name}/{own.splits[0]}.parquet '
      'somewhere and set config.grid.ood_dir, or take it out of config.grid.ood'
    )
  return '/'.join(filter(None, own.hub)), hub.split(*own.hub)


def decide(logits_NC: np.ndarray, merge_C: np.ndarray) -> np.ndarray:
  """Logits of the task's classes -> i32[n], classes of the set."""
  return merge_C[logits_NC.argmax(-1)]


def scores(decision: np.ndarray, label: np.ndarray, classes, group=None) -> dict[str, float]:
  """Accuracy; where there are groups also by class, and by both: 'lexical_overlap, entailment'."""
  right = decision == label
  out = dict(accuracy=float(right.mean()))
  for k, each in enumerate(classes if group is not None else ()):
    if (label == k).any():
      out[each] = float(right[label == k].mean())
  for name in () if group is None else np.unique(group):
    for k, each in enumerate(classes):
      rows = (group == name) & (label == k)
      if rows.any():
        out[f'{name}, {each}'] = float(right[rows].mean())
  return out
