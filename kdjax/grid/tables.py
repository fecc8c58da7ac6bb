"""Every table of a grid, and all of its numbers as csv; each cell is made of grid.json."""

import csv
import io

from kdjax import report
from kdjax.grid import cells, jobs, setting, summary


def all_of(grid: dict) -> list[cells.Table]:
  """Every table there is: what holds across settings first."""
  out = [summary.searched(grid)] if summary.is_search(grid) else []
  out += [make(grid) for make in (summary.overview, summary.verdicts, summary.gains, summary.kept)]
  for task, fraction in setting.each(grid):
    rows = setting.rows(grid, task, fraction)
    out.append(results(rows, grid))
    if any(row['ood'] for row in rows):
      out.append(elsewhere(rows, grid))
      out += subsets(rows)
    if any(row['agreement'] for row in rows):
      out.append(agreement(rows))
    out.append(cost(rows, grid))
  return [table for table in out if table.lines]


def results(rows: list[dict], grid: dict) -> cells.Table:
  """One setting: every metric of every split, beside sizes and differences."""
  first = rows[0]
  metrics, judge = first['metrics'], setting.judge(first)
  splits = list(dict.fromkeys(split for row in rows for split in row['scores']))
  judges = [split for split in splits if split != first['chosen']] or splits
  head = ['', 'parameters', *(f'{split} {metric}' for split in splits for metric in metrics)]
  apart = [(split, metric) for split in judges for metric in metrics]
  head += [f'{split} {metric} - {grid["base"]}' for split, metric in apart]
  head.append(f'gap closed{f", {judge}" * (len(judges) > 1)}')
  lines = []
  for row in rows:
    own = [cells.of_split(row['scores'], split, metric) for split in splits for metric in metrics]
    less = [row['difference'].get(setting.compared(first, *pair)) for pair in apart]
    more = [cells.difference(found) for found in less]
    more.append(cells.closed(row, judge))
    if row['run'] == 'teacher':
      more = [''] * len(more)
    lines.append([row['run'], report.count(row['parameters']), *own, *more])
  title = f'{setting.name(first)}: {setting.learned_from(rows):,} training rows'
  return cells.Table(title, head, lines, _chosen(rows))


def elsewhere(rows: list[dict], grid: dict) -> cells.Table:
  """One setting's sets from elsewhere: accuracies and differences from KD."""
  sets = list(dict.fromkeys(name for row in rows for name in row['ood']))
  have_f1 = {name for row in rows for name, found in row['ood'].items() if 'f1' in found}
  heads = lambda name: (name, f'{name} - {grid["base"]}', *[f'{name} f1'] * (name in have_f1))  # noqa: E731
  head = ['', *(h for name in sets for h in heads(name))]
  lines = [
    [
      row['run'],
      *(
        cell
        for name in sets
        for cell in (
          cells.of_split(row['ood'], name, 'accuracy'),
          cells.difference(row['difference'].get(f'ood/{name}')),
          *[cells.of_split(row['ood'], name, 'f1')] * (name in have_f1),
        )
      ),
    ]
    for row in rows
    if row['ood']
  ]
  title = f'{setting.name(rows[0])}: out of domain, accuracy'
  return cells.Table(title, head, lines, _merged(rows))


def subsets(rows: list[dict]) -> list[cells.Table]:
  """Of each set that has groups, their accuracies."""
  out = []
  found = {name: numbers for row in rows for name, numbers in row['ood'].items()}
  for name, numbers in found.items():
    groups = [group for group in numbers if group not in ('accuracy', 'f1')]
    lines = [[r['run'], *(cells.of_split(r['ood'], name, g) for g in groups)] for r in rows]
    if groups:
      title = f'{setting.name(rows[0])}: parts of {name}, accuracy'
      out.append(cells.Table(title, ['', *groups], lines))
  return out


def agreement(rows: list[dict]) -> cells.Table:
  """How students imitate their teacher, in and out of domain."""
  students = [row for row in rows if row['agreement']]
  each = [(split, name) for r in students for split, own in r['agreement'].items() for name in own]
  places = list(dict.fromkeys(each))
  head = ['', *(f'{split.removeprefix("ood/")} {name}' for split, name in places)]
  lines = [[r['run'], *(cells.of_split(r['agreement'], s, n) for s, n in places)] for r in students]
  note = (
    'same: share of rows on which student and teacher decide alike; kl: of the student from the '
    'teacher at temperature 1, nats, mean over rows. Of scores: correlation and squared difference.'
  )
  return cells.Table(f'{setting.name(rows[0])}: agreement with the teacher', head, lines, note)


def cost(rows: list[dict], grid: dict) -> cells.Table:
  """What training and answering takes."""
  base = f'x {grid["base"]}'
  head = ['', 'parameters', 'training rows', 'steps', 'training s a seed', base]
  head += ['examples/s', 'x teacher', 'latency ms']
  labelled, lines = setting.learned_from(rows), []
  for row in rows:
    own = row['cost']
    relative = own['relative']
    lines.append(
      [
        row['run'],
        report.count(row['parameters']),
        f'{row["rows"] if row["agreement"] else labelled:,}',
        str(int(own['steps'])),
        f'{own["seconds"]:.1f}',
        '' if relative is None or not row['agreement'] else f'{relative:.2f}',
        f'{own["examples_per_second"]:.0f}',
        f'{own["faster"]:.1f}',
        f'{own["latency_ms"]:.2f}',
      ]
    )
  note = (
    'Training rows: those with a label, and of some runs others beside them. Seconds of training '
    'steps by the log, without evaluations and checkpoints, answers that the teacher gave before '
    'the first step, and what trains a generator. Speeds are of models taken in turn with their '
    'teacher, of each command on its machine, and machines do other work: a factor, not a tenth. '
    'Latency: one row at a time.'
  )
  return cells.Table(f'{setting.name(rows[0])}: cost', head, lines, note)


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
  same = setting.judge(first) == first['chosen']
  seeds = len(student['seeds'])
  teachers = len(first['seeds'])
  said = f'{seeds} seed{"s" * (seeds > 1)}, {teachers} teacher{"s" * (teachers > 1)}. '
  said += f'The checkpoint is chosen on {first["chosen"]}'
  said += ', which scores it too.' if same else f', judged on {setting.judge(first)}.'
  if any(jobs.REST in row['scores'] for row in rows):
    said += f' {jobs.REST}: rows like those of training, from which no run learned.'
  return said
