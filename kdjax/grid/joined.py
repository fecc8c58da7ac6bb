"""Several grids as one: a setting's runs stand in one table, whichever command made them."""

import numpy as np

from kdjax.grid import setting, stats

_ALIKE = 1e-3  # scores of one teacher on two machines, which add up in another order


def of(grids: dict[str, dict]) -> dict:
  """One grid of all rows, by the names of their grids.

  A run that several share stands once; with other scores it stands again, as 'kd (name)'.
  """
  columns: dict[tuple, dict[str, list[tuple[list[str], dict]]]] = {}
  for name, grid in grids.items():
    for row in grid['rows']:
      own = columns.setdefault((row['task'], row['fraction']), {})
      again = own.setdefault(row['run'], [])
      row = row | dict(share=_shares(row, grid, grids)) | _teacher(row, grid, own)
      same = (n for n, (_, one) in enumerate(again) if _same(one['scores'], row['scores']))
      if (at := next(same, None)) is None:
        again.append(([name], row))
      else:
        names, one = again[at]
        again[at] = [*names, name], max(one, row, key=_measured)
  rows, tasks, base = [], [task for task, _ in columns], next(iter(grids.values()))['base']
  for column in sorted(columns, key=lambda column: (tasks.index(column[0]), column[1])):
    for again in columns[column].values():
      rows += [
        row | (_again(row, names, base) if n else {}) for n, (names, row) in enumerate(again)
      ]
  return next(iter(grids.values())) | dict(rows=rows)


def _again(row: dict, names: list[str], base: str) -> dict:
  """What differs of a run that stands again: its steps and rows may be others, hence no curve.

  KD itself has no other KD to be measured by.
  """
  cost = row['cost'] | (dict(relative=None) if row['run'] == base else {})
  return dict(run=f'{row["run"]} ({", ".join(names)})', cost=cost, curve={})


def _teacher(row: dict, grid: dict, own: dict[str, list]) -> dict:
  """The scores of a row's own teacher, where the teacher that stands first has others."""
  teacher, _ = _ends(row, grid)
  first = own.get('teacher')
  other = teacher and first and not _same(first[0][1]['scores'], teacher['scores'])
  return dict(teacher=teacher['scores']) if other else {}


def _shares(row: dict, grid: dict, grids: dict[str, dict]) -> dict:
  """A row's shares of the gap: to the fine-tuned student of another command if its own has none.

  Where that student is of the row's size, and the teachers of both have one score.
  """
  teacher, student = _ends(row, grid)
  if row['run'] in ('teacher', grid['student']) or student or not teacher:
    return row['share']
  out = dict(row['share'])
  for other, low in (_ends(row, one) for one in grids.values()):
    if not (other and low) or low['parameters'] != row['parameters']:
      continue
    for split, numbers in row['scores'].items():
      for metric, values in numbers.items():
        ends = [end['scores'].get(split, {}).get(metric) for end in (low, teacher, other)]
        at = setting.compared(row, split, metric)
        if at not in out and all(ends) and abs(np.mean(ends[1]) - np.mean(ends[2])) < _ALIKE:
          out[at] = stats.share(values, *ends[:2], metric)
  return out


def _ends(row: dict, grid: dict) -> tuple[dict | None, dict | None]:
  """(teacher, fine-tuned student) of a row's setting, as far as the grid has them."""
  found = {one['run']: one for one in setting.rows(grid, row['task'], row['fraction'])}
  return found.get('teacher'), found.get(grid['student'])


def _same(one: dict, other: dict) -> bool:
  """Whether scores are those of one run, which may have been scored on more splits since."""
  both = one.keys() & other.keys()
  return bool(both) and all(one[split] == other[split] for split in both)


def _measured(row: dict) -> int:
  """How many splits and sets a run was scored on, and differences it has."""
  return sum(len(row[part]) for part in ('scores', 'ood', 'difference'))
