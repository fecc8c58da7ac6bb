"""Tables of a grid, as markdown, csv and LaTeX; every cell is made of grid.json."""

import csv
import io
from typing import NamedTuple

import numpy as np

from kdjax import report
from kdjax.grid import jobs

UNDECIDED = '~'  # a difference whose interval holds zero
NOTE = (
  'mean ± standard deviation (n - 1) over seeds; [ ]: 95 % percentile bootstrap interval of the '
  f'mean difference from KD, paired; {UNDECIDED}: zero is inside, the difference is not shown. No '
  'interval is corrected for the number of methods compared.'
)


class Table(NamedTuple):
  """title: one line. lines: strings. note: what has to be known to read it."""

  title: str
  head: list[str]
  lines: list[list[str]]
  note: str = ''


def all_of(grid: dict) -> list[Table]:
  """Every table there is: the overview first."""
  out = [searched(grid)] if _search(grid) else []
  out += [overview(grid), gains(grid), kept(grid)]
  for task, fraction in columns(grid):
    rows = of(grid, task, fraction)
    out.append(results(rows, grid))
    if any(row['ood'] for row in rows):
      out.append(elsewhere(rows, grid))
      out += subsets(rows)
    if any(row['agreement'] for row in rows):
      out.append(agreement(rows))
    out.append(cost(rows, grid))
  return [table for table in out if table.lines]


def columns(grid: dict) -> list[tuple[str, float]]:
  """(task, share of the training rows) of each setting."""
  return list(dict.fromkeys((row['task'], row['fraction']) for row in grid['rows']))


def of(grid: dict, task: str, fraction: float) -> list[dict]:
  """Rows of one setting: teacher, then methods."""
  return [r for r in grid['rows'] if (r['task'], r['fraction']) == (task, fraction)]


def tested(row: dict) -> str:
  """The split that a run is judged by: the first that did not choose its checkpoint."""
  others = [split for split in row['scores'] if split != row['chosen']]
  return others[0] if others else row['chosen']


def compared(row: dict, split: str, metric: str) -> str:
  """The key of a row's difference from KD and share of the gap: of its first metric, the split."""
  return split if metric == row['metrics'][0] else f'{split} {metric}'


def overview(grid: dict) -> Table:
  """Runs by settings: the first metric on the split that judges."""
  places = columns(grid)
  by = {(row['task'], row['fraction'], row['run']): row for row in grid['rows']}
  head, lines = [''], []
  for task, fraction in places:
    row = of(grid, task, fraction)[0]
    head.append(f'{_setting(row)} {row["metrics"][0]}')
  names = list(dict.fromkeys(row['run'] for row in grid['rows']))
  for name in names:
    own = [by.get((*place, name)) for place in places]
    cells = [row and row['scores'][tested(row)][row['metrics'][0]] for row in own]
    line = [name, *(report.spread(values) if values else '' for values in cells)]
    if len(places) > 1:
      line.append(f'{np.mean([np.mean(v) for v in cells]):.4f}' if all(cells) else '')
    lines.append(line)
  if len(places) > 1:
    head.append('mean')
  return Table('All methods', head, lines, _judged(grid) + NOTE)


def searched(grid: dict) -> Table:
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
    lines.append([_setting(best), name, str(len(rows)), first, best['run'], top, said])
  head = ['setting', 'method', 'trials', 'the first', 'best', 'score', 'with']
  note = 'By the mean over seeds on the part of train that chooses; no other split was read.'
  return Table('Search', head, lines, note)


def _search(grid: dict) -> bool:
  return any(row['asked']['search'] for row in grid['rows'])


def gains(grid: dict) -> Table:
  """Runs by settings: the difference from KD, and the share of the gap of teacher and student."""
  judges = {
    f'{setting} {metric}': (place, compared(first, split, metric))
    for setting, (place, split) in _judges(grid).items()
    for first in of(grid, *place)[:1]
    for metric in first['metrics']
  }
  lines = []
  by = {(row['task'], row['fraction'], row['run']): row for row in grid['rows']}
  head = ['', *(h for x in judges for h in (f'{x} - {grid["base"]}', f'{x} gap closed'))]
  for name in dict.fromkeys(row['run'] for row in grid['rows']):
    if name == 'teacher':
      continue
    line = [name]
    for place, at in judges.values():
      row = by.get((*place, name))
      line.append(difference(row['difference'].get(at)) if row else '')
      line.append(closed(row, at) if row else '')
    if any(line[1:]):
      lines.append(line)
  note = (
    'Gap closed: (method - finetune) / (teacher - finetune) of the means; n/a where the teacher is '
    f'not above the fine-tuned student. The base of differences is {grid["base"]}.'
  )
  return Table('Gains', head, lines, note)


def kept(grid: dict) -> Table:
  """Runs by settings: the first metric as a share of the teacher's, and who keeps most."""
  found, said, tasks = {}, [], []
  for setting, (place, split) in _judges(grid).items():
    own = [row for row in of(grid, *place) if split in row['scores']]
    mean = {row['run']: np.mean(row['scores'][split][row['metrics'][0]]) for row in own}
    if mean.get('teacher', 0) <= 0:
      continue
    students = [row for row in own if row['agreement']]
    found[setting] = {row['run']: mean[row['run']] / mean['teacher'] for row in students}
    tasks += [setting] * (split != jobs.REST)
    both = [row['run'] for row in students if row['fields'].get('also')]  # methods joined
    one = [row['run'] for row in students if row['run'] not in both]
    best = [max(names, key=mean.get) for names in (one, both) if names]
    said.append(f'{setting}: {", of combinations ".join(best)}')
  head, lines = ['', *found, *['mean'] * (len(tasks) > 1)], []
  share = lambda value: '' if value is None else f'{100 * value:.1f} %'  # noqa: E731
  for name in dict.fromkeys(name for own in found.values() for name in own):
    line = [name, *(share(own.get(name)) for own in found.values())]
    if len(tasks) > 1:
      each = [found[setting].get(name) for setting in tasks]
      line.append(share(None if None in each else np.mean(each)))
    lines.append(line)
  note = f'Mean over tasks, without {jobs.REST}. Highest: {"; ".join(said)}.'
  return Table("Share of the teacher's score", head, lines, note)


def _judges(grid: dict) -> dict[str, tuple[tuple[str, float], str]]:
  """By name, (setting, split) on which runs are compared: that which judges, and train_rest."""
  found = {}
  for place in columns(grid):
    own = of(grid, *place)
    rest = [jobs.REST] * any(jobs.REST in row['scores'] for row in own)
    for split in (tested(own[0]), *rest):
      found[_setting(own[0]) + f', {split}' * (split == jobs.REST)] = place, split
  return found


def results(rows: list[dict], grid: dict) -> Table:
  """One setting: every metric of every split, beside sizes and differences."""
  first = rows[0]
  metrics, judge = first['metrics'], tested(first)
  splits = list(dict.fromkeys(split for row in rows for split in row['scores']))
  judges = [split for split in splits if split != first['chosen']] or splits
  head = ['', 'parameters', *(f'{split} {metric}' for split in splits for metric in metrics)]
  apart = [(split, metric) for split in judges for metric in metrics]
  head += [f'{split} {metric} - {grid["base"]}' for split, metric in apart]
  head.append(f'gap closed{f", {judge}" * (len(judges) > 1)}')
  lines = []
  for row in rows:
    cells = [_spread(row['scores'], split, metric) for split in splits for metric in metrics]
    more = [difference(row['difference'].get(compared(first, *pair))) for pair in apart]
    more.append(closed(row, judge))
    if row['run'] == 'teacher':
      more = [''] * len(more)
    lines.append([row['run'], report.count(row['parameters']), *cells, *more])
  return Table(f'{_setting(first)}: {first["rows"]:,} training rows', head, lines, _chosen(rows))


def elsewhere(rows: list[dict], grid: dict) -> Table:
  """One setting's sets from elsewhere: accuracies and differences from KD."""
  sets = list(dict.fromkeys(name for row in rows for name in row['ood']))
  head = ['', *(h for name in sets for h in (name, f'{name} - {grid["base"]}'))]
  lines = [
    [
      row['run'],
      *(
        cell
        for name in sets
        for cell in (
          _spread(row['ood'], name, 'accuracy'),
          difference(row['difference'].get(f'ood/{name}')),
        )
      ),
    ]
    for row in rows
    if row['ood']
  ]
  return Table(f'{_setting(rows[0])}: out of domain, accuracy', head, lines, _merged(rows))


def subsets(rows: list[dict]) -> list[Table]:
  """Of each set that has groups, their accuracies."""
  out = []
  found = {name: numbers for row in rows for name, numbers in row['ood'].items()}
  for name, numbers in found.items():
    groups = [group for group in numbers if group != 'accuracy']
    lines = [[r['run'], *(_spread(r['ood'], name, g) for g in groups)] for r in rows]
    if groups:
      out.append(Table(f'{_setting(rows[0])}: parts of {name}, accuracy', ['', *groups], lines))
  return out


def _spread(numbers: dict, split: str, name: str) -> str:
  """A cell; empty where another command of the page has this split, and this row's has not."""
  return report.spread(numbers[split][name]) if split in numbers else ''


def agreement(rows: list[dict]) -> Table:
  """How students imitate their teacher, in and out of domain."""
  students = [row for row in rows if row['agreement']]
  each = [(split, name) for r in students for split, own in r['agreement'].items() for name in own]
  places = list(dict.fromkeys(each))
  head = ['', *(f'{split.removeprefix("ood/")} {name}' for split, name in places)]
  lines = [[r['run'], *(_spread(r['agreement'], s, n) for s, n in places)] for r in students]
  note = (
    'same: share of rows on which student and teacher decide alike; kl: of the student from the '
    'teacher at temperature 1, nats, mean over rows. Of scores: correlation and squared difference.'
  )
  return Table(f'{_setting(rows[0])}: agreement with the teacher', head, lines, note)


def cost(rows: list[dict], grid: dict) -> Table:
  """What training and answering takes."""
  base = f'x {grid["base"]}'
  head = ['', 'parameters', 'steps', 'training s a seed', base, 'examples/s', 'x teacher']
  head.append('latency ms')
  lines = []
  for row in rows:
    own = row['cost']
    relative = own['relative']
    lines.append(
      [
        row['run'],
        report.count(row['parameters']),
        str(int(own['steps'])),
        f'{own["seconds"]:.1f}',
        '' if relative is None or row['run'] == 'teacher' else f'{relative:.2f}',
        f'{own["examples_per_second"]:.0f}',
        f'{own["faster"]:.1f}',
        f'{own["latency_ms"]:.2f}',
      ]
    )
  note = (
    'Seconds of training steps by the log, without evaluations and checkpoints; the speeds of one '
    'machine, models taken in turn with their teacher. Latency: one row at a time.'
  )
  return Table(f'{_setting(rows[0])}: cost', head, lines, note)


def difference(found: dict | None) -> str:
  """'+0.0123 [+0.0010, +0.0240]', and a mark where zero is inside."""
  if not found:
    return ''
  text = f'{found["mean"]:+.4f}'
  if np.isnan(found['low']):
    return text
  mark = '' if found['decided'] else f' {UNDECIDED}'
  return f'{text} [{found["low"]:+.4f}, {found["high"]:+.4f}]{mark}'


def closed(row: dict, split: str) -> str:
  """The share of the gap, '83 %'; n/a without a gap; '' of its two ends."""
  if split not in row['share']:
    return ''
  share = row['share'][split]
  return 'n/a' if share is None else f'{round(100 * share)} %'


def markdown(table: Table, draw=report.markdown) -> str:
  """Title, table, note; draw: report.shown for a terminal."""
  parts = [f'## {table.title}', draw(table.head, table.lines), table.note]
  return '\n\n'.join(filter(None, parts))


def latex(table: Table) -> str:
  """A tabular with booktabs' rules; every character is text."""
  rows = [' & '.join(_tex(cell) for cell in line) + r' \\' for line in (table.head, *table.lines)]
  parts = [
    f'% {_tex(table.title)}',
    r'\begin{tabular}{l' + 'r' * (len(table.head) - 1) + '}',
    r'\toprule',
    rows[0],
    r'\midrule',
    *rows[1:],
    r'\bottomrule',
    r'\end{tabular}',
  ]
  return '\n'.join(parts) + '\n'


def tidy(grid: dict) -> str:
  """csv, a number a line: setting, run, what, where, seed ('' of what is over seeds), value."""
  out = io.StringIO()
  write = csv.writer(out, lineterminator='\n')
  write.writerow(['task', 'fraction', 'run', 'part', 'split', 'name', 'seed', 'value'])
  for row in grid['rows']:
    who = [row['task'], row['fraction'], row['run']]
    write.writerow([*who, 'model', '', 'parameters', '', row['parameters']])
    for part in ('scores', 'ood', 'agreement'):
      for split, numbers in row[part].items():
        for name, values in numbers.items():
          for seed, value in zip(row['seeds'], values, strict=True):
            write.writerow([*who, part, split, name, seed, repr(value)])
    for split, found in row['difference'].items():
      for name in ('mean', 'low', 'high'):
        write.writerow([*who, 'difference', split, name, '', repr(found[name])])
    for split, value in row['share'].items():
      write.writerow([*who, 'share', split, '', '', '' if value is None else repr(value)])
    for name, value in row['cost'].items():
      write.writerow([*who, 'cost', '', name, '', '' if value is None else repr(value)])
  return out.getvalue()


_TEX = {c: f'\\{c}' for c in '&%$#_{}'} | {
  '\\': r'\textbackslash{}',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
  '±': r'$\pm$',
}


def _tex(text: str) -> str:
  return ''.join(_TEX.get(c, c) for c in text)


def _setting(row: dict) -> str:
  return row['task'] if row['fraction'] == 1 else f'{row["task"]} {100 * row["fraction"]:g} %'


def _merged(rows: list[dict]) -> str:
  """Which classes of the task count as which of a set, where these are fewer."""
  labels = rows[0]['labels']
  found = {name: classes for row in rows for name, classes in row['classes'].items()}
  said = [
    f'{name} has {", ".join(classes)}'
    for name, classes in found.items()
    if len(classes) < len(labels)
  ]
  return "" if not said else (
    f'Trained on {", ".join(labels)}. ' + '; '.join(said)
    + ': the class with the highest logit is taken first, and every class but the first is then '
    'the second.'
  )  # fmt: skip


def _chosen(rows: list[dict]) -> str:
  first, student = rows[0], rows[-1]
  same = tested(first) == first['chosen']
  seeds = len(student['seeds'])
  teachers = len(first['seeds'])
  said = f'{seeds} seed{"s" * (seeds > 1)}, {teachers} teacher{"s" * (teachers > 1)}. '
  said += f'The checkpoint is chosen on {first["chosen"]}'
  said += ', which scores it too.' if same else f', judged on {tested(first)}.'
  if any(jobs.REST in row['scores'] for row in rows):
    said += f' {jobs.REST}: rows like those of training, from which no run learned.'
  return said


def _judged(grid: dict) -> str:
  firsts = [of(grid, *place)[0] for place in columns(grid)]
  if any(tested(row) == row['chosen'] for row in firsts):
    return 'Scores are of the split that chose the checkpoint where there is no other. '
  return 'Scores are of a split that chose nothing. '
