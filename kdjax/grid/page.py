"""report.html: all of a grid in one file that loads nothing from elsewhere."""

import base64
import html
import io
import json

from kdjax.grid import cells

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem;
  color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
.wide { overflow-x: auto }
th, td { padding: .2rem .7rem; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { border-bottom: 1px solid #222 }
tbody tr:nth-child(even) { background: #f5f5f5 }
.note { color: #555; font-size: 13px; max-width: 60rem }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto; font-size: 12px }
img { max-width: 100%; height: auto }
"""


def page(grid: dict, found: list[cells.Table], figures: dict, files: list[str]) -> str:
  """The text of the file.

  found: tables of the grid. figures: by name, of matplotlib; {} without it. files: what was said
  of GLUE's test files.
  """
  title = 'Distillation: ' + ', '.join(dict.fromkeys(row['task'] for row in grid['rows']))
  parts = [
    '<!doctype html>',
    f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
    f'<style>{_STYLE}</style></head><body>',
    f'<h1>{html.escape(title)}</h1>',
    *(_table(table) for table in found),
    *(_picture(name, figure) for name, figure in figures.items()),
    *_samples(grid),
  ]
  if files:
    parts.append(_section('Test files for GLUE', _pre('\n'.join(files))))
  parts.append(_section('Commands', _pre('\n'.join(grid['commands']))))
  for name, text in grid['configs'].items():
    parts.append(f'<details><summary>{html.escape(name)}</summary>{_pre(_json(text))}</details>')
  parts.append(_section('Versions', _pre(_json(grid['versions']))))
  return '\n'.join([*parts, '</body></html>', ''])


def _table(table: cells.Table) -> str:
  row = lambda cells, tag: (  # noqa: E731
    '<tr>' + ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells) + '</tr>'
  )
  body = '\n'.join(row(line, 'td') for line in table.lines)
  note = table.note and f'<p class="note">{html.escape(table.note)}</p>'
  return _section(
    table.title,
    f'<div class="wide"><table><thead>{row(table.head, "th")}</thead>\n'
    f'<tbody>{body}</tbody></table></div>{note}',
  )


def _picture(name: str, figure) -> str:
  out = io.BytesIO()
  figure.savefig(out, format='png', dpi=120)
  data = base64.b64encode(out.getvalue()).decode()
  return f'<p><img alt="{html.escape(name)}" src="data:image/png;base64,{data}"></p>'


def _samples(grid: dict):
  for row in grid['rows']:
    if row['samples']:
      where = f'{row["task"]}, {row["run"]}: new text and what the teacher says of it'
      head = ['text', 'label', 'teacher', 'new text', 'teacher on it']
      yield _table(cells.Table(where, head, row['samples']))


def _section(title: str, body: str) -> str:
  return f'<h2>{html.escape(title)}</h2>\n{body}'


def _pre(text: str) -> str:
  return f'<pre>{html.escape(text)}</pre>'


def _json(value) -> str:
  return json.dumps(value, indent=2, sort_keys=True)
