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

from kdjax import report
from kdjax.grid import cells, joined, plots, tables

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
the same score, to a thousandth."""
# Where data lie on somebody's machine is nobody's business.
_FOLDER = re.compile(
  r'(--(?:workdir|config\.(?:data\.(?:dir|cache|unlabelled)|grid\.(?:ood_dir|text)))='
  r'|--[\w.]+=(?=[/~])).+'
)


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


def page(grids: dict[str, dict], figures: list[str] = ()) -> str:
  """The tables of all, and what was run; figures: paths of pictures, as the page names them."""
  parts = [_HEAD]
  if len(grids) > 1:
    parts.append(_AGAIN)
  notes = [f'- {name}: {grid["note"]}' for name, grid in grids.items() if grid.get('note')]
  parts += ['\n'.join(notes)] * bool(notes)
  parts += [cells.markdown(table) for table in tables.all_of(joined.of(grids))]
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
  parser.add_argument(
    '--note', default='', help='beside them: what its command does not say (that of the file)'
  )
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
      said = asked.note or (asked.keep.exists() and report.read_json(asked.keep).get('note', ''))
      report.write_json(asked.keep, kept(*grids.values(), said or ''))
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
  found = plots.all_of(joined.of(grids))
  plots.save(found, folder, ('png',))
  return [f'{where}/{name}.png' for name in found]


if __name__ == '__main__':
  main()
