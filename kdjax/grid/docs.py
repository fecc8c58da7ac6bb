"""docs/results.md, from the grid.json of one grid or more; never written by hand.

python -m kdjax.grid.docs --out=docs/results.md runs/low/grid.json runs/ood/grid.json
"""

import argparse
import pathlib
import re

from kdjax import report
from kdjax.grid import tables

_HEAD = """# Results

Written by `python -m kdjax.grid.docs` from what `python -m kdjax.reproduce` measured; `report.html`
of each grid has its plots, samples and configs. No number here is from a paper. What else was
tried, and why things are as they are: [findings.md](findings.md)."""
# Where data lie on somebody's machine is nobody's business.
_FOLDER = re.compile(
  r'(--(?:workdir|config\.(?:data\.dir|data\.cache|grid\.ood_dir))=)(\'[^\']*\'|\S+)'
)


def page(grids: list[dict]) -> str:
  """Of each grid its command, versions and tables."""
  parts = [_HEAD]
  for grid in grids:
    names = ', '.join(dict.fromkeys(row['task'] for row in grid['rows']))
    command = _FOLDER.sub(r'\1<folder>', grid['commands'][0])
    said = ', '.join(f'{k} {v}' for k, v in grid['versions'].items())
    parts += [f'## {names}', f'```sh\n{command}\n```', f'{grid["device"]}; {said}.']
    parts += [tables.markdown(table, level='###') for table in tables.all_of(grid)]
  return '\n\n'.join(parts) + '\n'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('grids', nargs='+', type=pathlib.Path, help='grid.json of kdjax.reproduce')
  parser.add_argument('--out', required=True, type=pathlib.Path)
  asked = parser.parse_args()
  try:
    text = page([report.read_json(path) for path in asked.grids])
    asked.out.write_text(text, encoding='utf8')
  except (OSError, ValueError) as error:
    raise SystemExit(f'error: {error}') from None


if __name__ == '__main__':
  main()
