"""Tables across the settings of a grid: who scores what, gains and keeps."""

import numpy as np

from kdjax import report
from kdjax.grid import cells, jobs, setting


def overview(grid: dict) -> cells.Table:
  """Runs by settings: the first metric on the split that judges."""
  places = setting.each(grid)
  by = setting.by(grid)
  head, lines = [''], []
  for task, fraction in places:
    row = setting.rows(grid, task, fraction)[0]
    head.append(f'{setting.name(row)} {row["metrics"][0]}')
  for name in setting.runs(grid):
    own = [by.get((*place, name)) for place in places]
    each = [row and row['scores'][setting.judge(row)][row['metrics'][0]] for row in own]
    line = [name, *(report.spread(values) if values else '' for values in each)]
    if len(places) > 1:
      line.append(f'{np.mean([np.mean(v) for v in each]):.4f}' if all(each) else '')
    lines.append(line)
  if len(places) > 1:
    head.append('mean')
  return cells.Table('All methods', head, lines, _judged(grid) + cells.NOTE)


def searched(grid: dict) -> cells.Table:
  """Of every method of a search, the trial that is best on the split that chooses."""
  families: dict[tuple, list[dict]] = {}
  for row in grid['rows']:
    if row['run'] != 'teacher':
      key = row['task'], row['fraction'], row['run'].rpartition('_')[0]
      families.setdefault(key, []).append(row)
  lines = []
  for (*_, name), rows in families.items():
    score = lambda row: row['scores'][row['chosen']][row['metrics'][0]]  # noqa: E731
    best = max(rows, key=lambda row, score=score: np.mean(score(row)))
    told = [row['fields'] | dict(rate_of_training=row['rate']) for row in rows]
    differ = [k for k in told[0] if any(own[k] != told[0][k] for own in told)]
    won = best['fields'] | dict(rate_of_training=best['rate'])
    number = lambda x: f'{x:g}' if isinstance(x, float) else str(x)  # noqa: E731
    said = ', '.join(f'{k} {number(won[k])}' for k in differ)
    first, top = report.spread(score(rows[0])), report.spread(score(best))
    lines.append([setting.name(best), name, str(len(rows)), first, best['run'], top, said])
  head = ['setting', 'method', 'trials', 'the first', 'best', 'score', 'with']
  note = 'By the mean over seeds on the part of train that chooses; no other split was read.'
  return cells.Table('Search', head, lines, note)


def is_search(grid: dict) -> bool:
  return any(row['asked']['search'] for row in grid['rows'])


def gains(grid: dict) -> cells.Table:
  """Runs by settings: the difference from KD, and the share of the gap of teacher and student."""
  judges = {
    f'{name} {metric}': (place, setting.compared(first, split, metric))
    for name, (place, split) in setting.judges(grid).items()
    for first in setting.rows(grid, *place)[:1]
    for metric in first['metrics']
  }
  lines = []
  by = setting.by(grid)
  head = ['', *(h for x in judges for h in (f'{x} - {grid["base"]}', f'{x} gap closed'))]
  for name in setting.runs(grid):
    if name == 'teacher':
      continue
    line = [name]
    for place, at in judges.values():
      row = by.get((*place, name))
      line.append(cells.difference(row['difference'].get(at)) if row else '')
      line.append(cells.closed(row, at) if row else '')
    if any(line[1:]):
      lines.append(line)
  note = (
    'Gap closed: (method - finetune) / (teacher - finetune) of the means; n/a where the teacher is '
    f'not above the fine-tuned student. The base of differences is {grid["base"]}.'
  )
  return cells.Table('Gains', head, lines, note)


def verdicts(grid: dict) -> cells.Table:
  """Runs: on how many settings each is shown above or below KD, by what, at what cost."""
  lines = []
  for name in setting.runs(grid):
    own = [row for row in grid['rows'] if row['run'] == name]
    own = [row for row in own if np.isfinite(_less(row).get('low', np.nan))]
    if not own:
      continue
    found = [_less(row) for row in own]
    apart = [one['mean'] > 0 for one in found if one['decided']]
    counts = len(found), sum(apart), len(found) - len(apart), len(apart) - sum(apart)
    times = np.mean([row['cost']['relative'] for row in own])
    mean = np.mean([one['mean'] for one in found])
    lines.append([name, *map(str, counts), f'{mean:+.4f}', f'{times:.1f}'])
  base = grid['base']
  head = ['', 'settings', f'above {base}', 'not shown', f'below {base}', 'mean difference']
  note = (
    'On the split that judges, by the first metric: above and below are differences whose interval '
    "has zero outside. The mean is over a run's own settings, whatever their metrics: it compares "
    f'runs of the same settings alone. x {base}: seconds of training, mean over them.'
  )
  return cells.Table(f'Against {base}', [*head, f'x {base}'], lines, note)


def _less(row: dict) -> dict:
  """The difference from KD on the split that judges; {} of who has none."""
  return row['difference'].get(setting.judge(row), {})


def kept(grid: dict) -> cells.Table:
  """Runs by settings: the first metric as a share of the teacher's, and who keeps most."""
  found, said, tasks = {}, [], []
  for where, (place, split) in setting.judges(grid).items():
    own = [row for row in setting.rows(grid, *place) if split in row['scores']]
    mean = {row['run']: np.mean(row['scores'][split][row['metrics'][0]]) for row in own}
    students = [row for row in own if row['agreement']]
    if not students or mean.get('teacher', 0) <= 0:
      continue
    found[where] = {row['run']: mean[row['run']] / _top(row, split, mean) for row in students}
    tasks += [where] * (split != jobs.REST)
    said.append(f'{where}: {_best(students, mean, grid["base"])}')
  head, lines = ['', *found, *['mean'] * (len(tasks) > 1)], []
  share = lambda value: '' if value is None else f'{100 * value:.1f} %'  # noqa: E731
  for name in setting.runs(grid):
    if not any(name in own for own in found.values()):
      continue
    line = [name, *(share(own.get(name)) for own in found.values())]
    if len(tasks) > 1:
      each = [found[where].get(name) for where in tasks]
      line.append(share(None if None in each else np.mean(each)))
    lines.append(line)
  note = f'Mean over tasks, without {jobs.REST}. Highest: {"; ".join(said)}.'
  return cells.Table("Share of the teacher's score", head, lines, note)


def _top(row: dict, split: str, mean: dict[str, float]) -> float:
  """The score of a row's teacher: of several commands each has its own."""
  if split in row.get('teacher', {}):
    return np.mean(row['teacher'][split][row['metrics'][0]])
  return mean['teacher']


def _best(students: list[dict], mean: dict, base: str) -> str:
  """Who is highest, of those that are like one another: methods alone, joined, and the rest.

  Of a page of several commands a run that stands again may have had more epochs: it is like nobody.
  """
  like = next((row for row in students if row['run'] == base), students[0])
  groups: dict[str, list[str]] = {'': [], ', of combinations ': [], ', with more rows ': []}
  groups[', of another size '] = []
  for row in students:
    if row['parameters'] != like['parameters']:
      kind = ', of another size '
    elif row['rows'] > setting.learned_from(students):
      kind = ', with more rows '
    elif ' (' in row['run']:
      continue
    else:
      kind = ', of combinations ' if row['fields'].get('also') else ''
    groups[kind].append(row['run'])
  best = {kind: max(names, key=mean.get) for kind, names in groups.items() if names}
  return ''.join(f'{kind}{name}' for kind, name in best.items()).removeprefix(', ')


def _judged(grid: dict) -> str:
  firsts = [setting.rows(grid, *place)[0] for place in setting.each(grid)]
  if any(setting.judge(row) == row['chosen'] for row in firsts):
    return 'Scores are of the split that chose the checkpoint where there is no other. '
  return 'Scores are of a split on which no checkpoint was chosen. '
