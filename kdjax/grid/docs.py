"""docs/results.md, from the grid.json of one grid or more; never written by hand.

python -m kdjax.grid.docs --keep=docs/grids/low.json runs/low/grid.json
python -m kdjax.grid.docs --out=docs/results.md docs/grids/*.json

What is kept has every number and no text of the data, no folder of a machine. Grids of several
machines and days become one page: a task's methods stand in one table, whoever ran them.
"""

import argparse
import itertools
import pathlib
import re
import shlex

from kdjax import report
from kdjax.grid import plots, tables

_HEAD = """# Results

Written by `python -m kdjax.grid.docs` from what `python -m kdjax.reproduce` measured; `report.html`
of each grid has its plots, samples and configs. No number here is from a paper. What else was
tried, and why things are as they are: [findings.md](findings.md)."""
_AGAIN = """A run that several of these commands made with the same scores stands once. With other
scores (other fields, or another machine that adds up in another order) it stands again, under the
command's name: `kd (name)`. Differences from KD and costs beside KD's are from the KD of the same
command."""
# Where data lie on somebody's machine is nobody's business.
_FOLDER = re.compile(
  r'(--(?:workdir|config\.(?:data\.(?:dir|cache|unlabelled)|grid\.(?:ood_dir|text)))='
  r'|--[\w.]+=(?=[/~])).+'
)


def kept(grid: dict) -> dict:
  """What a repository may hold of a grid.json: numbers, and the command that made them."""
  rows = [
    {k: v for k, v in row.items() if k not in ('samples', 'workdirs', 'origin')}
    | dict(asked={k: v for k, v in row['asked'].items() if k != 'ood_dir'})
    for row in grid['rows']
  ]
  rest = {k: v for k, v in grid.items() if k != 'configs'}
  return rest | dict(rows=rows, commands=[_command(grid)])


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
      own = columns.setdefault((row['task'], row['fraction']), {})
      again = own.setdefault(row['run'], [])
      same = (n for n, one in enumerate(again) if _same(one['scores'], row['scores']))
      if (at := next(same, None)) is None:
        again.append(row | dict(run=f'{row["run"]} ({name})' if again else row['run']))
      elif _measured(row) > _measured(again[at]):
        again[at] = row | dict(run=again[at]['run'])
  rows = [row for own in columns.values() for again in own.values() for row in again]
  return next(iter(grids.values())) | dict(rows=rows)


def _same(one: dict, other: dict) -> bool:
  """Whether scores are those of one run, which may have been scored on more splits since."""
  both = one.keys() & other.keys()
  return bool(both) and all(one[split] == other[split] for split in both)


def _measured(row: dict) -> int:
  """How many splits and sets a run was scored on, and differences it has."""
  return sum(len(row[part]) for part in ('scores', 'ood', 'difference'))


def page(grids: dict[str, dict], figures: list[str] = ()) -> str:
  """What was run, and the tables of all; figures: paths of pictures, as the page names them."""
  parts = [_HEAD]
  if len(grids) > 1:
    parts.append(_AGAIN)
  for name, grid in grids.items():
    said = ', '.join(f'{k} {v}' for k, v in grid['versions'].items())
    command = f'```sh\n{_command(grid)}\n```'
    parts += [command, f'{name}: {grid["device"]}; {said}.']
  parts += [tables.markdown(table) for table in tables.all_of(joined(grids))]
  parts += [f'![{pathlib.Path(path).stem}]({path})' for path in figures]
  return '\n\n'.join(parts) + '\n'


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
  asked = parser.parse_args()
  if not (asked.out or asked.keep) or (asked.plots and not asked.out):
    parser.error('nothing to write: --keep=FILE, or --out=PAGE, with or without --plots=FOLDER')
  if asked.keep and len(asked.grids) > 1:
    parser.error(f'--keep={asked.keep} is for one grid, {len(asked.grids)} are named')
  try:
    grids = read(asked.grids)
    if asked.keep:
      report.write_json(asked.keep, kept(*grids.values()))
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
