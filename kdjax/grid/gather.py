"""All numbers of a grid as one tree, grid.json: what tables, plots and pages are made of.

A row is one run name of one task and share of the data; lists in it have one number a seed.
"""

import functools
import pathlib
from collections.abc import Iterable

import jax
import numpy as np

from kdjax import report, runs, tasks
from kdjax.data import ood
from kdjax.grid import commands, jobs, scores, setting, stats

_BASE, _STUDENT = 'kd', 'finetune'  # what differences are from; the lower end of the gap
_SEEDED = ('scores', 'ood', 'agreement')


def grid(
  todo: list[jobs.Job], workdir: pathlib.Path, order: list[str], resamples: int, command: str = ''
) -> dict:
  """What the files of finished jobs in workdir say.

  order: methods. resamples: of each bootstrap interval. command: that was given.
  """
  found: dict[tuple, list[dict]] = {}
  for job in todo:
    for name in job.names:
      where = _at(job, workdir)
      row = report.read_json(job.workdir / name / scores.FILE) | dict(workdir=where)
      same = found.setdefault((job.task, job.fraction, name), [])
      if same:
        _same_data(workdir / same[0]['workdir'] / name, job.workdir / name)
      if all(other['workdir'] != row['workdir'] for other in same):
        same.append(row)
  place = {name: n for n, name in enumerate(['teacher', *order])}
  columns = list(dict.fromkeys(key[:2] for key in found))
  rows = [
    _joined(found[key])
    for column in columns
    for key in sorted((k for k in found if k[:2] == column), key=lambda k: place[k[2]])
  ]
  for column in columns:
    own = [row for row in rows if (row['task'], row['fraction']) == column]
    _relate({row['run']: row for row in own}, found, column, workdir, resamples)
  return dict(
    rows=rows,
    resamples=resamples,
    base=_BASE,
    student=_STUDENT,
    commands=[command, *(commands.of(job) for job in todo)],
    configs={f'{j.task}, {", ".join(j.names)}: {_at(j, workdir)}': j.c.to_dict() for j in todo},
    versions=report.versions(),
    device=f'{len(jax.devices())} x {jax.devices()[0].device_kind}',
  )


def _same_data(first: pathlib.Path, other: pathlib.Path) -> None:
  """ValueError where two runs of one row, seeds of a method, found other rows in the files."""
  now = runs.found(other)
  if now and (said := runs.moved(first, lambda: now)):
    raise ValueError(
      f'{other} learned from other data than {first} ({said}): rename the older folder, and the '
      'same command trains it anew'
    )


def _at(job: jobs.Job, workdir: pathlib.Path) -> str:
  return str(job.workdir.relative_to(workdir))


def _joined(each: list[dict]) -> dict:
  """One row of several workdirs: what a seed has of its own, side by side."""
  out = dict(each[0], workdirs=[row['workdir'] for row in each])
  del out['workdir']
  out['seeds'] = [seed for row in each for seed in row['seeds']]
  for part in _SEEDED:
    out[part] = {
      split: {name: [v for row in each for v in row[part][split][name]] for name in numbers}
      for split, numbers in each[0][part].items()
    }
  curves = [row['curve'] for row in each if row['curve']]
  if curves:
    names = [name for name in curves[0] if name != 'step']
    joined = {name: [v for curve in curves for v in curve[name]] for name in names}
    out['curve'] = dict(step=curves[0]['step']) | joined
  costs = [row['cost'] for row in each]
  out['cost'] = {name: float(np.median([cost[name] for cost in costs])) for name in costs[0]}
  return out


def _relate(rows: dict[str, dict], found: dict, column: tuple, workdir, resamples: int) -> None:
  """Adds the share of the gap, the difference from KD with its interval, the cost beside KD's."""
  # A base is asked for by every run, a run by each of its metrics: a file is read once.
  said = functools.cache(lambda of, where: _decisions(found[*column, of], workdir, where))
  for name, row in rows.items():
    row['share'], row['difference'] = {}, {}
    base = rows.get(_BASE)
    row['cost']['relative'] = base and row['cost']['seconds'] / max(base['cost']['seconds'], 1e-9)
    for at, part, split, key in _places(row):
      if any(split not in rows[of][part] for of in ('teacher', _STUDENT, _BASE) if of in rows):
        continue  # train_rest, which a run with text without labels does not have
      value = lambda of, part=part, split=split, key=key: rows[of][part][split][key]  # noqa: E731
      where = split if part == 'scores' else f'ood/{split}'
      if _STUDENT in rows and name not in ('teacher', _STUDENT):
        three = (value(of) for of in (name, _STUDENT, 'teacher'))
        row['share'][at] = stats.share(*three, key)
      if base and name not in ('teacher', _BASE):
        (ours, label), (theirs, _) = said(name, where), said(_BASE, where)
        classes = len(row['labels']) if part == 'scores' else 0  # a set from elsewhere has its own
        got = stats.paired(key, ours, theirs, label, resamples, classes=classes)
        row['difference'][at] = got._asdict() | dict(decided=got.decided)


def _places(row: dict) -> Iterable[tuple[str, str, str, str]]:
  """(name of a difference, then part of a row, split, metric) of all that is compared."""
  for split in row['scores']:
    for metric in row['metrics']:
      yield setting.compared(row, split, metric), 'scores', split, metric
  yield from ((f'ood/{name}', 'ood', name, 'accuracy') for name in row['ood'])


def _decisions(
  each: list[dict], workdir: pathlib.Path, where: str
) -> tuple[list[np.ndarray], np.ndarray]:
  """(decisions of each seed, labels), from the predictions of a run on disk."""
  out, label = [], None
  decide = tasks.KINDS[each[0]['kind']].decide
  for row in each:
    path = workdir / row['workdir'] / row['run'] / 'predictions' / f'{where}.npz'
    with np.load(path) as found:
      if label is not None and not np.array_equal(label, found['label'], equal_nan=True):
        raise ValueError(f'{path}: other labels than those of {each[0]["workdir"]}')
      label = found['label']
      merge = found.get('merge')
      for own in found['logits']:
        out.append(np.asarray(decide(own)) if merge is None else ood.decide(own, merge))
  return out, label
