"""Pictures of a grid, each from grid.json alone; matplotlib figures by name."""

import math
import pathlib

import numpy as np

from kdjax.grid import jobs, setting

REMEDY = "pip install 'kdjax[report]' brings matplotlib, and the plots"


def all_of(grid: dict) -> dict:
  """Every figure that the grid has numbers for."""
  import matplotlib

  matplotlib.use('Agg')
  # Figures of one grid are one file each time: no dates, no random ids.
  matplotlib.rcParams['svg.hashsalt'] = 'kdjax'
  found = {}
  for task, fraction in setting.each(grid):
    rows = setting.rows(grid, task, fraction)
    if any(row['curve'] for row in rows):
      found[f'curves_{task}_{fraction:g}'] = curves(rows)
  found |= dict(gap=gap(grid), cost=cost(grid))
  for task in dict.fromkeys(row['task'] for row in grid['rows']):
    found[f'size_{task}'] = size(grid, task)
  return {name: figure for name, figure in found.items() if figure}


def save(figures: dict, folder: pathlib.Path, kinds: tuple[str, ...] = ('png', 'svg')) -> None:
  """<folder>/<name>.png and .svg: the same bytes for the same grid."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, figure in figures.items():
    for kind in kinds:
      metadata = dict(Date=None) if kind == 'svg' else dict(Software=None)
      figure.savefig(folder / f'{name}.{kind}', dpi=120, metadata=metadata)


def curves(rows: list[dict]):
  """The first metric on the split that chooses, by step: means, and a standard deviation around.

  Of many runs a few have colours and names: fine-tuning, KD, and who ends highest.
  """
  figure, axis = _figure()
  metric = rows[0]['metrics'][0]
  found = [row for row in rows if row['curve'] and row['run'] != 'teacher']
  ends = {row['run']: np.mean([each[-1] for each in row['curve'][metric]]) for row in found}
  first = [row['run'] for row in found if row['run'] in ('finetune', 'kd')]
  named = [*first, *(name for name in sorted(ends, key=ends.get)[::-1] if name not in first)]
  named = named[:_NAMED]
  for row in sorted(found, key=lambda row: row['run'] in named):  # those on top
    steps, values = row['curve']['step'], np.array(row['curve'][metric])
    mean = values.mean(0)
    own = row['run'] in named
    how = dict(label=row['run'], marker='.') if own else dict(color='lightgray', lw=0.8)
    (line,) = axis.plot(steps, mean, **how)
    if len(values) > 1 and own:
      std = values.std(0, ddof=1)
      axis.fill_between(steps, mean - std, mean + std, color=line.get_color(), alpha=0.15, lw=0)
  if len(found) > len(named):
    axis.plot([], [], color='lightgray', lw=0.8, label=f'{len(found) - len(named)} others')
  teacher = rows[0]['scores'][rows[0]['chosen']][metric]
  axis.axhline(np.mean(teacher), color='black', lw=1, ls=':', label='teacher')
  axis.set(xlabel='step', ylabel=f'{rows[0]["chosen"]} {metric}', title=setting.name(rows[0]))
  return _finish(figure, axis)


def gap(grid: dict):
  """Methods by settings: the share of the gap of teacher and fine-tuned student that is closed."""
  shares: dict[str, dict[str, float]] = {}
  for row in grid['rows']:
    share = row['share'].get(setting.judge(row))
    if share is not None:
      shares.setdefault(setting.name(row), {})[row['run']] = 100 * share
  names = [name for name in setting.runs(grid) if any(name in own for own in shares.values())]
  if not names:
    return None
  figure, axis = _figure(4 + 0.75 * len(shares), 1.4 + 0.24 * len(names))
  values = np.array([[own.get(name, np.nan) for own in shares.values()] for name in names])
  axis.imshow(values, cmap='RdYlBu', vmin=-100, vmax=100, aspect='auto')
  for (n, m), value in np.ndenumerate(values):
    if not np.isnan(value):
      dark = dict(color='white' if abs(value) > 70 else 'black')
      axis.text(m, n, str(round(value)), ha='center', va='center', fontsize=8, **dark)
  axis.set_yticks(range(len(names)), names, fontsize=8)
  axis.set_xticks(range(len(shares)), list(shares), rotation=45, ha='right', fontsize=8)
  axis.set_title(
    '% of the gap closed, 0: fine-tuned, 100: teacher\nempty: not run, or no gap', fontsize=9
  )
  axis.spines[:].set_visible(False)
  axis.tick_params(length=0)
  return figure


def cost(grid: dict):
  """Training time relative to KD against the difference from KD, with its interval; by task."""
  panels = {}
  for column in setting.each(grid):
    rows = setting.rows(grid, *column)
    found = [(row, row['difference'].get(setting.judge(row))) for row in rows]
    found = [(row, own) for row, own in found if own]
    if found:
      panels[setting.name(rows[0])] = found
  if not panels:
    return None
  names = list(dict.fromkeys(row['run'] for found in panels.values() for row, _ in found))
  across = math.ceil(math.sqrt(len(panels)))
  down = -(-len(panels) // across)
  size = (3.2 * across + 1.6, 2.8 * down + 1)
  figure, axes = _figure(*size, nrows=down, ncols=across, squeeze=False, sharex=True)
  drawn = {}
  for axis, (title, found) in zip(axes.flat, panels.items(), strict=False):
    for row, own in found:
      n = names.index(row['run'])
      bars = np.nan_to_num([[own['mean'] - own['low']], [own['high'] - own['mean']]]).clip(0)
      mark = dict(fmt=_MARKS[n // 10 % len(_MARKS)], color=f'C{n % 10}', ms=5, lw=0.8)
      drawn[row['run']] = axis.errorbar(row['cost']['relative'], own['mean'], bars, **mark)
    axis.axhline(0, color='black', lw=0.8)
    axis.set_title(title, fontsize=10)
    axis.tick_params(labelbottom=True, labelsize=8)
    axis.spines[['top', 'right']].set_visible(False)
  for axis in axes.flat[len(panels) :]:
    axis.remove()
  figure.supxlabel(f'training time / that of {grid["base"]}', fontsize=10)
  figure.supylabel(f'difference from {grid["base"]}', fontsize=10)
  figure.legend(drawn.values(), drawn, loc='outside right center', fontsize=7, frameon=False)
  return figure


def size(grid: dict, task: str):
  """The first metric against the share of the training rows, of runs with several; by split."""
  rows = [row for row in grid['rows'] if row['task'] == task]
  metric, panels = rows[0]['metrics'][0], {}
  for split in (setting.judge(rows[0]), jobs.REST):
    own = {}
    for row in sorted(rows, key=lambda row: row['fraction']):
      if split in row['scores']:
        own.setdefault(row['run'], {})[100 * row['fraction']] = row['scores'][split][metric]
    panels[split] = {name: found for name, found in own.items() if len(found) > 1}
  panels = {split: own for split, own in panels.items() if own}
  if not panels:
    return None
  names = list(dict.fromkeys(name for own in panels.values() for name in own))
  figure, axes = _figure(3.4 * len(panels) + 2, ncols=len(panels), squeeze=False)
  for axis, (split, own) in zip(axes.flat, panels.items(), strict=True):
    for name, values in own.items():
      n = names.index(name)
      style = dict(color='black', ls=':') if name == 'teacher' else dict(color=f'C{n % 10}')
      spread = [np.std(v, ddof=1) if len(v) > 1 else 0 for v in values.values()]
      mean = [np.mean(v) for v in values.values()]
      axis.errorbar(list(values), mean, spread, marker='.', capsize=2, label=name, **style)
    shares = sorted({share for values in own.values() for share in values})
    axis.set_xscale('log')
    axis.set_xticks(shares, [f'{share:g}' for share in shares], minor=False)
    axis.set_xticks([], minor=True)
    axis.set(xlabel='% of the training rows', ylabel=f'{split} {metric}', title=task)
    axis.spines[['top', 'right']].set_visible(False)
  return _finish(figure, axes.flat[-1])


_NAMED = 7  # curves that have colours
_MARKS = 'os^D'


def _figure(width: float = 6.4, height: float = 4.4, **grid):
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout='constrained')
  return figure, figure.subplots(**grid)


def _finish(figure, axis):
  axis.spines[['top', 'right']].set_visible(False)
  axis.legend(fontsize=7, frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
  return figure
