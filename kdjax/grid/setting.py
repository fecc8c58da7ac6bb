"""A setting of a grid, a task at one share of its rows: its runs, and what they are judged by."""

from kdjax.grid import jobs


def each(grid: dict) -> list[tuple[str, float]]:
  """(task, share of the training rows) of each setting."""
  return list(dict.fromkeys((row['task'], row['fraction']) for row in grid['rows']))


def runs(grid: dict) -> list[str]:
  """Names of all runs, each where it is met first; 'kd (name)' beside 'kd'."""
  names = list(dict.fromkeys(row['run'] for row in grid['rows']))
  first = list(dict.fromkeys(name.split(' ')[0] for name in names))
  return sorted(names, key=lambda name: first.index(name.split(' ')[0]))


def by(grid: dict) -> dict[tuple[str, float, str], dict]:
  """Rows by (task, share of the training rows, run)."""
  return {(row['task'], row['fraction'], row['run']): row for row in grid['rows']}


def rows(grid: dict, task: str, fraction: float) -> list[dict]:
  """Runs of one setting: teacher, then methods."""
  return [r for r in grid['rows'] if (r['task'], r['fraction']) == (task, fraction)]


def name(row: dict) -> str:
  """'sst2 10 %', or 'sst2' of all rows."""
  return row['task'] if row['fraction'] == 1 else f'{row["task"]} {100 * row["fraction"]:g} %'


def judge(row: dict) -> str:
  """The split that a run is judged by: the first that did not choose its checkpoint."""
  others = [split for split in row['scores'] if split != row['chosen']]
  return others[0] if others else row['chosen']


def judges(grid: dict) -> dict[str, tuple[tuple[str, float], str]]:
  """By name, (setting, split) on which runs are compared: that which judges, and train_rest."""
  found = {}
  for place in each(grid):
    own = rows(grid, *place)
    rest = [jobs.REST] * any(jobs.REST in row['scores'] for row in own)
    for split in (judge(own[0]), *rest):
      found[name(own[0]) + f', {split}' * (split == jobs.REST)] = place, split
  return found


def compared(row: dict, split: str, metric: str) -> str:
  """The key of a row's difference from KD and share of the gap: of its first metric, the split."""
  return split if metric == row['metrics'][0] else f'{split} {metric}'


def learned_from(rows: list[dict]) -> int:
  """The labelled rows of a setting: some runs have others without a label beside them."""
  return min(row['rows'] for row in rows)
