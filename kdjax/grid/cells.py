"""A table: its cells, and it as markdown and LaTeX."""

from typing import NamedTuple

import numpy as np

from kdjax import report

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


def of_split(numbers: dict, split: str, name: str) -> str:
  """A cell; empty where another command of the page has this split, and this row's has not."""
  found = numbers.get(split, {}).get(name)
  return report.spread(found) if found else ''


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


_TEX = {c: f'\\{c}' for c in '&%$#_{}'} | {
  '\\': r'\textbackslash{}',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
  '±': r'$\pm$',
}


def _tex(text: str) -> str:
  return ''.join(_TEX.get(c, c) for c in text)
