"""Text without labels for the student of a task, of which its teacher is asked: other tasks' train
splits, and of its own what no run learns from or chooses by.

python -m benchmarks.texts --task=stsb --of=mnli,qqp --dir=<GLUE folder> --out=runs/texts.parquet

The task as configs/grid.py:text has it. Name the task itself too (--task=qqp --of=qqp,mnli) where
a share of it is learned from. What any split of the task says is left out, and so are copies.
Columns text and, of pairs, pair; shuffled.
"""

import argparse
import pathlib
import re
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from configs import grid
from kdjax import env
from kdjax.data import sources, table
from kdjax.grid import jobs


def collect(c, of: list[str], words: int) -> list[tuple[str, ...]]:
  """Texts, or pairs of them, each once, in an order drawn with config.data.seed.

  Args:
    c: of a grid; its first task, and config.data, say where texts are and which are taken.
    of: tasks whose train splits are read.

  Raises:
    ValueError: a task of other columns than the grid's; anything wrong with the data.
  """
  own = _read(c)
  taken = {_said(row) for split in own.splits.values() for row in _rows(split)}
  found: dict[Any, tuple[str, ...]] = {}
  for name in of:
    split = _read(c, name).splits['train']
    if (split.second is None) != (own.splits['train'].second is None):
      raise ValueError(f'--of={name}: of one task a row is a text, of the other a pair of them')
    found |= {_said(row): row for row in _rows(split)}
  rows = [row for said, row in found.items() if said not in taken and _fits(row, words)]
  order = np.random.default_rng(c.data.seed).permutation(len(rows))
  return [rows[n] for n in order]


def _read(c, whole: str = '') -> sources.Text:
  """The splits of the grid's task as its runs have them, or another task with all of train."""
  c = c.copy_and_resolve_references()
  with c.unlocked():
    c.grid.tasks, c.grid.text = whole or c.grid.tasks, 'not read here'
  own = jobs.of(c, pathlib.Path(), None)[0].c.copy_and_resolve_references()
  if whole:
    own.data.update(train_fraction=1.0, train_size=0, development=0.0)
  return env.read(own)[2]


def _said(row: tuple[str, ...]) -> frozenset[str]:
  """Letters and digits alone, in either order: a fifth of MRPC's test pairs are in STS-B's train
  split, with other spaces around their punctuation."""
  return frozenset(re.sub(r'[\W_]+', '', text.casefold()) for text in row)


def _fits(row: tuple[str, ...], words: int) -> bool:
  return all(row) and sum(len(text.split()) for text in row) <= words


def _rows(split: table.Table) -> list[tuple[str, ...]]:
  return list(zip(*(part for part in (split.first, split.second) if part is not None), strict=True))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
  add = parser.add_argument
  add('--task', required=True, help='of GLUE: that of the student')
  add('--of', required=True, help='tasks whose texts are taken, by commas')
  add('--dir', default='', help='as config.data.dir; empty: the hub')
  add('--fraction', type=float, default=0.1, help='as config.grid.fractions: learned from')
  add('--words', type=int, default=50, help='longer texts are left out; of a pair, both together')
  add('--rows', type=int, default=0, help='at most, of all in that order; 0: all')
  add('--out', required=True, help='the file, parquet')
  asked = parser.parse_args()
  try:  # before what takes minutes
    pathlib.Path(asked.out).parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise SystemExit(f'error: no folder for --out={asked.out}: {error}') from None
  c = grid.get_config('text')
  c.grid.tasks, c.grid.fractions, c.data.dir = asked.task, (asked.fraction,), asked.dir
  rows = collect(c, asked.of.split(','), asked.words)[: asked.rows or None]
  columns = dict(zip(('text', 'pair'), map(list, zip(*rows, strict=True)), strict=False))
  parquet.write_table(pa.table(columns), asked.out)
  print(f'{asked.out}: {len(rows):,} rows')


if __name__ == '__main__':
  main()
