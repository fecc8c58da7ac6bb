"""What docs/findings.md says in its first table, and counts, is what the kept grids say."""

import json
import pathlib
import re

import numpy as np
import pytest

from kdjax.grid import docs, joined

DOCS = pathlib.Path(__file__).parent.parent / 'docs'
# Columns, as (grid, task, split or set); of pairs with new ones, or more text, another grid.
COLUMNS = (
  ('low', 'sst2', 'validation+test'),
  ('low', 'sst2', 'train_rest'),
  ('low', 'sst2', 'ood/cad_imdb_revised'),
  ('low_stsb', 'stsb', 'validation+test'),
  ('low_qqp', 'qqp', 'validation'),
  ('low_qnli', 'qnli', 'validation'),
  ('low_mnli', 'mnli', 'validation_matched'),
  ('low_mrpc', 'mrpc', 'validation+test'),
)
RUNS = {
  'PKD of every token': 'pkd_tokens',
  'AugPro': 'augpro',
  'MATE-KD': 'mate_kd',
  'CILDA': 'cilda',
  'KD with new pairs of the same texts': 'kd_pairs',
  'KD with more text': 'kd_text',
  'PKD of every token, with more text': 'pkd_tokens_text',
}
ELSEWHERE = {
  ('kd_pairs', 'qqp'): 'low_qqp_pairs',
  ('pkd_tokens', 'qnli'): 'low_qnli_texts',
  ('pkd_tokens_text', 'qnli'): 'low_qnli_texts',
  ('pkd_tokens_text', 'qqp'): 'low_qqp_tokens',
  ('pkd_tokens_both', 'mrpc'): 'low_mrpc_both',
} | {('kd_text', task): f'low_{task}_texts' for task in ('qnli', 'mrpc')}
# Runs of two grids: called KD in theirs, compared by written predictions, which are not kept.
BY_PREDICTIONS = {('kd_text', 'sst2'), ('kd_text', 'stsb')}


def _table() -> dict[str, list[str]]:
  text = (DOCS / 'findings.md').read_text(encoding='utf8').partition('## In short')[2]
  own = text[text.index('\n|') :].partition('\n\n')[0]
  lines = [re.split(r'\s*\|\s*', line.strip('| ')) for line in own.strip().splitlines()]
  return {first: rest for first, *rest in lines}


def _row(name: str, task: str, run: str) -> dict | None:
  path = DOCS / 'grids' / f'{ELSEWHERE.get((run, task), name)}.json'
  rows = json.loads(path.read_text(encoding='utf8'))['rows']
  found = [row for row in rows if (row['task'], row['run']) == (task, run)]
  return found[0] if found else None


@pytest.mark.parametrize('said', RUNS)
def test_differences_are_those_of_the_grids(said):
  run, checked = RUNS[said], 0
  for (name, task, split), cell in zip(COLUMNS, _table()[said], strict=True):
    row = _row(name, task, run)
    if (run, task) in BY_PREDICTIONS:
      continue
    if not re.search(r'\d', cell):
      assert row is None or split not in row['difference'], (said, task, cell)
      continue
    found = row['difference'][split]
    text = '{mean:+.3f} [{low:+.3f}, {high:+.3f}]'.format(**found)
    assert cell == (f'**{text}**' if found['decided'] else text), (said, task)
    checked += 1
  assert checked


def test_shares_are_those_of_the_grids():
  table = _table()
  kept = {
    'KD': 'kd',
    'AugPro': 'augpro',
    'PKD of every token': 'pkd_tokens',
    'KD with new pairs': 'kd_pairs',
    'KD with more text': 'kd_text',
    'PKD of every token, with more text': 'pkd_tokens_text',
    'PKD of every token, with more text and new pairs': 'pkd_tokens_both',
  }
  for said, run in kept.items():
    checked = 0
    for (name, task, split), cell in zip(COLUMNS, table[f'kept: {said}'], strict=True):
      if re.search(r'\d', cell) and (run, task) not in BY_PREDICTIONS:
        where = ELSEWHERE.get((run, task), name)  # each grid has a teacher of its own
        teacher, own = (_score(_row(where, task, r), split) for r in ('teacher', run))
        assert cell == f'{100 * own / teacher:.1f} %', (said, task)
        checked += 1
    assert checked, said


def _score(row: dict, split: str) -> float:
  if split.startswith('ood/'):
    return np.mean(row['ood'][split.removeprefix('ood/')]['accuracy'])
  return np.mean(row['scores'][split][row['metrics'][0]])


def test_times_are_those_of_the_grids():
  table = _table()
  lines = {
    'time, KD = 1: AugPro, MATE-KD, CILDA': ('augpro', 'mate_kd', 'cilda'),
    'time, KD = 1: PKD of every token': ('pkd_tokens',),
    'time, KD = 1: PKD of every token, with more text': ('pkd_tokens_text',),
    'time, KD = 1: new pairs, more text': ('kd_pairs', 'kd_text'),
  }
  for said, asked in lines.items():
    checked = 0
    for (name, task, _), cell in zip(COLUMNS, table[said], strict=True):
      for run, part in zip(asked, cell.split(', '), strict=False):
        if re.search(r'\d', part) and (run, task) not in BY_PREDICTIONS:
          assert part == f'{_row(name, task, run)["cost"]["relative"]:.1f}', (run, task)
          checked += 1
    assert checked, said


def test_differences_are_counted():
  """All of methods that the page of results has; parts of what is pooled count no second time."""
  found = []
  for row in joined.of(docs.read(sorted((DOCS / 'grids').glob('*.json'))))['rows']:
    left = {'development', *({'validation', 'test'} if 'validation+test' in row['scores'] else ())}
    if row['run'].split(' ')[0] not in ('teacher', 'finetune', 'kd'):
      found += [d for at, d in row['difference'].items() if at.split(' ')[0] not in left]
  outside = [d['mean'] > 0 for d in found if d['decided']]
  text = (DOCS / 'findings.md').read_text(encoding='utf8')
  said = re.search(
    r'has (\d+) differences between a method and KD.*?(\d+) of\s+them exclude zero, (\d+)',
    text,
    re.S,
  )
  assert [int(n) for n in said.groups()] == [len(found), len(outside), sum(outside)]
