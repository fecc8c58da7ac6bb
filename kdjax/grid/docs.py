"""docs/results.md, from the grid.json of one grid or more; never written by hand.

python -m kdjax.grid.docs --keep=docs/grids/low.json [--note='of a subset'] runs/low/grid.json
python -m kdjax.grid.docs --out=docs/results.md docs/grids/*.json

What is kept has every number and no text of the data, no folder of a machine. Grids of several
machines and days become one page: a task's methods stand in one table, whoever ran them.
"""

import argparse
import itertools
import pathlib
import re
import shlex

import numpy as np

from kdjax import metrics, report
from kdjax.grid import cells, plots, setting, stats, tables

_HEAD = """# Results

Written by `python -m kdjax.grid.docs` from what `python -m kdjax.reproduce` measured; the
`report.html` that a command leaves has its plots, samples and configs too. No number here is from a
paper. What to make of it, what else was tried, and why things are as they are:
[findings.md](findings.md)."""
_AGAIN = """A run that several commands share stands once, if its scores are the same. If they
differ (other fields, or another machine that adds up in another order), it stands again with the
command's name: `kd (name)`. It may then have had other rows, epochs or layers: its command, at the
end, says which. Differences and costs are from the KD of the same command; a KD that stands again
has none. Where a command has no fine-tuned student, gaps are from that of another whose teacher has
the same score."""
# Where data lie on somebody's machine is nobody's business.
_FOLDER = re.compile(
  r'(--(?:workdir|config\.(?:data\.(?:dir|cache|unlabelled)|grid\.(?:ood_dir|text)))='
  r'|--[\w.]+=(?=[/~])).+'
)

_ALIKE = 1e-3  # of scores of one teacher, by two machines


def kept(grid: dict, note: str = '') -> dict:
  """What a repository may hold of a grid.json: numbers, and the command that made them.

  note: what a reader has to know that the command does not say; '': as it was.
  """
  rows = [
    {k: v for k, v in row.items() if k not in ('samples', 'workdirs', 'origin')}
    | dict(asked={k: v for k, v in row['asked'].items() if k != 'ood_dir'})
    for row in grid['rows']
  ]
  rest = {k: v for k, v in grid.items() if k != 'configs'}
  return rest | dict(rows=rows, commands=[_command(grid)], note=note or grid.get('note', ''))


def _command(grid: dict) -> str:
  """That was given, without folders."""
  words = shlex.split(grid['commands'][0])
  for n, (flag, word) in enumerate(itertools.pairwise(words), 1):
    if '=' not in flag and _FOLDER.match(f'{flag}={word}'):  # a flag, a space and its value
      words[n] = '<folder>'
  words = [_FOLDER.sub(r'\1<folder>', word) for word in words]
  return ' '.join(shlex.quote(word) if '<folder>' not in word else word for word in words)


def joined(grids: dict[str, dict]) -> dict:
  """One grid of all rows; a run that was measured again with other scores has its grid's name."""
  columns: dict[tuple, dict[str, list[dict]]] = {}
  for name, grid in grids.items():
    for row in grid['rows']:
      row = row | dict(share=_shares(row, grid, grids))
      own = columns.setdefault((row['task'], row['fraction']), {})
      again = own.setdefault(row['run'], [])
      same = (n for n, one in enumerate(again) if _same(one['scores'], row['scores']))
      if (at := next(same, None)) is None:
        again.append(row | (_again(row, name, grid['base']) if again else {}))
      elif _measured(row) > _measured(again[at]):
        again[at] = row | dict(run=again[at]['run'])
  rows = [row for own in columns.values() for again in own.values() for row in again]
  return next(iter(grids.values())) | dict(rows=rows)


def _again(row: dict, name: str, base: str) -> dict:
  """What differs of a run that stands again: its steps and rows may be others, hence no curve.

  KD itself has no other KD to be measured by.
  """
  cost = row['cost'] | (dict(relative=None) if row['run'] == base else {})
  return dict(run=f'{row["run"]} ({name})', cost=cost, curve={})


def _shares(row: dict, grid: dict, grids: dict[str, dict]) -> dict:
  """A row's shares of the gap: to the fine-tuned student of another command if its own has none.

  Where that student is of the row's size, and the two commands' teachers have one score: they are
  of the same fields and rows, and machines that add up in another order move it by a row or two.
  """
  ends = _ends(row, grid)
  if ends is None or row['run'] in ('teacher', grid['student']) or len(ends) == 2:
    return row['share']
  out = dict(row['share'])
  for other in filter(None, (_ends(row, one) for one in grids.values())):
    if len(other) < 2 or other[1]['parameters'] != row['parameters']:
      continue
    for split, numbers in row['scores'].items():
      for metric, values in numbers.items():
        top, low, high = (x['scores'].get(split, {}).get(metric) for x in (*ends, *other[::-1]))
        at = setting.compared(row, split, metric)
        if at not in out and low and high and abs(np.mean(top) - np.mean(high)) < _ALIKE:
          up = -1.0 if metric in metrics.LOWER else 1.0
          out[at] = stats.share(*(up * np.array(each) for each in (values, low, top)))
  return out


def _ends(row: dict, grid: dict) -> list[dict] | None:
  """Teacher and, where the grid has it, fine-tuned student of a row's setting."""
  found = {one['run']: one for one in setting.rows(grid, row['task'], row['fraction'])}
  return [found[name] for name in ('teacher', grid['student']) if name in found] or None


def _same(one: dict, other: dict) -> bool:
  """Whether scores are those of one run, which may have been scored on more splits since."""
  both = one.keys() & other.keys()
  return bool(both) and all(one[split] == other[split] for split in both)


def _measured(row: dict) -> int:
  """How many splits and sets a run was scored on, and differences it has."""
  return sum(len(row[part]) for part in ('scores', 'ood', 'difference'))


def page(grids: dict[str, dict], figures: list[str] = ()) -> str:
  """The tables of all, and what was run; figures: paths of pictures, as the page names them."""
  parts = [_HEAD]
  if len(grids) > 1:
    parts.append(_AGAIN)
  notes = [f'- {name}: {grid["note"]}' for name, grid in grids.items() if grid.get('note')]
  parts += ['\n'.join(notes)] * bool(notes)
  parts += [cells.markdown(table) for table in tables.all_of(joined(grids))]
  parts += [f'![{pathlib.Path(path).stem}]({path})' for path in figures]
  parts.append('## Commands')
  versions = [', '.join(f'{k} {v}' for k, v in grid['versions'].items()) for grid in grids.values()]
  alike = len(set(versions)) == 1
  for (name, grid), said in zip(grids.items(), versions, strict=True):
    machine = f'{name}: {grid["device"]}' + ('' if alike else f'; {said}')
    parts += [f'{machine}.', f'```sh\n{_command(grid)}\n```']
  return '\n\n'.join([*parts, *[f'All of them: {versions[0]}.'] * alike]) + '\n'


def read(paths: list[pathlib.Path]) -> dict[str, dict]:
  """Grids by name: that of the file, or of its workdir.

  Raises:
    ValueError, OSError: two of one name, a file that cannot be read.
  """
  found: dict[str, dict] = {}
  for path in paths:
    name = path.resolve().parent.name if path.name == 'grid.json' else path.stem
    if name in found:
      raise ValueError(f'{path}: another grid is called {name}: rename one of the files')
    found[name] = report.read_json(path)
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('grids', nargs='+', type=pathlib.Path, help='grid.json of kdjax.reproduce')
  parser.add_argument('--out', type=pathlib.Path, help='the page to write')
  parser.add_argument(
    '--plots', type=pathlib.Path, help='folder of its pictures, within that of the page'
  )
  parser.add_argument('--keep', type=pathlib.Path, help='file for the numbers of one grid')
  parser.add_argument('--note', default='', help='beside them: what its command does not say')
  asked = parser.parse_args()
  if not (asked.out or asked.keep) or (asked.plots and not asked.out):
    parser.error('nothing to write: --keep=FILE, or --out=PAGE, with or without --plots=FOLDER')
  if asked.note and not asked.keep:
    parser.error('--note=TEXT is kept with the numbers of one grid: --keep=FILE')
  if asked.keep and len(asked.grids) > 1:
    parser.error(f'--keep={asked.keep} is for one grid, {len(asked.grids)} are named')
  try:
    grids = read(asked.grids)
    if asked.keep:
      report.write_json(asked.keep, kept(*grids.values(), asked.note))
    if asked.out:
      figures = _pictures(grids, asked.plots, asked.out.parent) if asked.plots else []
      asked.out.write_text(page(grids, figures), encoding='utf8')
  except ImportError:
    raise SystemExit(f'error: no plots: {plots.REMEDY}') from None
  except (OSError, ValueError) as error:
    raise SystemExit(f'error: {error}') from None


def _pictures(grids: dict[str, dict], folder: pathlib.Path, beside: pathlib.Path) -> list[str]:
  """Saves the plots of all grids: their paths, as a page in folder `beside` names them."""
  where = folder.resolve().relative_to(beside.resolve())
  found = plots.all_of(joined(grids))
  plots.save(found, folder, ('png',))
  return [f'{where}/{name}.png' for name in found]


if __name__ == '__main__':
  main()
