"""docs/results.md, from the grid.json of one grid or more; never written by hand.

python -m kdjax.grid.docs --keep=docs/grids/sst2.json runs/low/grid.json
python -m kdjax.grid.docs --out=docs/results.md docs/grids/*.json

What is kept has every number and no text of the data, no folder of a machine. Grids of several
machines and days become one page: a task's methods stand in one table, whoever ran them.
"""

import argparse
import pathlib
import re

from kdjax import report
from kdjax.grid import plots, tables

_HEAD = """# Results

Written by `python -m kdjax.grid.docs` from what `python -m kdjax.reproduce` measured; `report.html`
of each grid has its plots, samples and configs. No number here is from a paper. What else was
tried, and why things are as they are: [findings.md](findings.md)."""
_AGAIN = """A run that several of these commands made with the same scores stands once. With other
scores (another machine adds up in another order) it stands again, as `kd (2)`; a difference from KD
is always that from the KD of the same command."""
# Where data lie on somebody's machine is nobody's business.
_FOLDER = re.compile(
  r'(--(?:workdir|config\.(?:data\.dir|data\.cache|grid\.ood_dir))=)(\'[^\']*\'|\S+)'
)


def kept(grid: dict) -> dict:
  """What a repository may hold of a grid.json: numbers, and the command that made them."""
  rows = [
    {k: v for k, v in row.items() if k not in ('samples', 'workdirs', 'origin')}
    for row in grid['rows']
  ]
  rest = {k: v for k, v in grid.items() if k != 'configs'}
  return rest | dict(rows=rows, commands=[_command(grid)])


def _command(grid: dict) -> str:
  """That was given, without folders."""
  return _FOLDER.sub(r'\1<folder>', grid['commands'][0])


def joined(grids: list[dict]) -> dict:
  """One grid of all rows; a run that was measured again with other scores has a number."""
  columns: dict[tuple, dict[str, dict]] = {}
  for row in (row for grid in grids for row in grid['rows']):
    own = columns.setdefault((row['task'], row['fraction']), {})
    again = [one for one in own.values() if one['run'].partition(' (')[0] == row['run']]
    if all(one['scores'] != row['scores'] for one in again):
      name = f'{row["run"]} ({len(again) + 1})' if again else row['run']
      own[name] = row | dict(run=name)
  return grids[0] | dict(rows=[row for own in columns.values() for row in own.values()])


def page(grids: list[dict], figures: list[str] = ()) -> str:
  """What was run, and the tables of all; figures: paths of pictures, as the page names them."""
  parts = [_HEAD]
  if len(grids) > 1:
    parts.append(_AGAIN)
  for grid in grids:
    said = ', '.join(f'{k} {v}' for k, v in grid['versions'].items())
    parts += [f'```sh\n{_command(grid)}\n```', f'{grid["device"]}; {said}.']
  parts += [tables.markdown(table) for table in tables.all_of(joined(grids))]
  parts += [f'![{pathlib.Path(path).stem}]({path})' for path in figures]
  return '\n\n'.join(parts) + '\n'


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
    grids = [report.read_json(path) for path in asked.grids]
    if asked.keep:
      report.write_json(asked.keep, kept(grids[0]))
    if asked.out:
      figures = _pictures(grids, asked.plots, asked.out.parent) if asked.plots else []
      asked.out.write_text(page(grids, figures), encoding='utf8')
  except ImportError:
    raise SystemExit(f'error: no plots: {plots.REMEDY}') from None
  except (OSError, ValueError) as error:
    raise SystemExit(f'error: {error}') from None


def _pictures(grids: list[dict], folder: pathlib.Path, beside: pathlib.Path) -> list[str]:
  """Saves the plots of all grids: their paths, as a page in folder `beside` names them."""
  where = folder.resolve().relative_to(beside.resolve())
  found = plots.all_of(joined(grids))
  plots.save(found, folder, ('png',))
  return [f'{where}/{name}.png' for name in found]


if __name__ == '__main__':
  main()
