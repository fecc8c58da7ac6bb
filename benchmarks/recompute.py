"""The numbers of a grid again, from its written predictions: scikit-learn and scipy alone.

python benchmarks/recompute.py --workdir=DIR   (a workdir of kdjax.reproduce)

Nothing of kdjax is imported. Reads DIR/grid.json and <run>/predictions/*.npz; ends with an error
where a metric, an accuracy elsewhere or an agreement differs by more than 1e-5 of it.
"""

import argparse
import json
import pathlib

import numpy as np
from scipy import special, stats
from sklearn import metrics

SCORES = dict(
  accuracy=metrics.accuracy_score,
  f1_macro=lambda y, p: metrics.f1_score(y, p, average='macro', zero_division=0),
  f1_micro=lambda y, p: metrics.f1_score(y, p, average='micro', zero_division=0),
  matthews=metrics.matthews_corrcoef,
  mse=metrics.mean_squared_error,
  pearson=lambda y, p: np.nan_to_num(stats.pearsonr(y, p).statistic),
  spearman=lambda y, p: np.nan_to_num(stats.spearmanr(y, p).statistic),
)


def decisions(logits: np.ndarray, kind: str) -> np.ndarray:
  """What each row is decided to be."""
  if kind == 'regression':
    return logits[:, 0]
  return (logits > 0).astype(int) if kind == 'multilabel' else logits.argmax(1)


def score(metric: str, label: np.ndarray, logits: np.ndarray, kind: str) -> float:
  """The metric of these rows; f1 is of class 1 where there are two classes, macro otherwise."""
  decided, classes = decisions(logits, kind), logits.shape[1]
  if metric.startswith('f1') and kind == 'multilabel' and classes == 1:
    return metrics.f1_score(label[:, 0], decided[:, 0], zero_division=0)
  if metric == 'f1':
    average = 'binary' if kind == 'classes' and classes == 2 else 'macro'
    return metrics.f1_score(label, decided, average=average, zero_division=0)
  return SCORES[metric](label, decided)


def divergence(student: np.ndarray, teacher: np.ndarray, kind: str) -> float:
  """Mean KL of the student from the teacher, in nats."""
  student, teacher = student.astype(np.float64), teacher.astype(np.float64)
  if kind == 'multilabel':
    p, q = special.expit(teacher), special.expit(student)
    return float((special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)).sum(1).mean())
  p, q = special.softmax(teacher, 1), special.softmax(student, 1)
  return float(special.rel_entr(p, q).sum(1).mean())


def loaded(folders: list[str], run: str, split: str):
  """[(logits of a seed, that file)] over the workdirs of a run."""
  out = []
  for folder in folders:
    path = pathlib.Path(folder) / run / 'predictions' / f'{split}.npz'
    with np.load(path) as file:
      found = dict(file)
    out += [(own, found) for own in found['logits']]
  return out


def check(row: dict, folders: list[str]):
  """(what, written, recomputed) of every number of a row that predictions decide."""
  kind, name = row['kind'], row['run']
  for split, numbers in row['scores'].items():
    for metric, values in numbers.items():
      for value, (logits, found) in zip(values, loaded(folders, name, split), strict=True):
        yield f'{split} {metric}', value, score(metric, found['label'], logits, kind)
  for split, numbers in row['ood'].items():
    for group, values in numbers.items():
      for value, (logits, found) in zip(values, loaded(folders, name, f'ood/{split}'), strict=True):
        decided = found['merge'][logits.argmax(1)]
        right = decided == found['label']
        if group == 'f1':
          again = metrics.f1_score(found['label'], decided, zero_division=0)
        else:
          part, _, which = group.rpartition(', ')
          rows = (found['group'] == part) if part else np.full(len(right), True)
          if group != 'accuracy':
            rows &= found['label'] == row['classes'][split].index(which)
          again = right[rows].mean()
        yield f'{split} {group}', value, again
  for split, numbers in row['agreement'].items():
    ours, theirs = loaded(folders, name, split), loaded(folders, 'teacher', split)
    teachers = theirs * (len(ours) // len(theirs))
    for measure, values in numbers.items():
      for value, (a, _), (b, _) in zip(values, ours, teachers, strict=True):
        pair = decisions(a, kind), decisions(b, kind)
        again = {
          'same': lambda a, b, pair=pair: np.mean((pair[0] == pair[1]).reshape(len(a), -1).all(1)),
          'kl': lambda a, b: divergence(a, b, kind),
          'pearson': lambda a, b, pair=pair: stats.pearsonr(*pair).statistic,
          'mse': lambda a, b: np.square(a.astype(np.float64) - b).sum(1).mean(),
        }[measure](a, b)
        yield f'{split} {measure}', value, again


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--workdir', required=True, type=pathlib.Path)
  workdir = parser.parse_args().workdir
  rows, count, worst = json.loads((workdir / 'grid.json').read_text())['rows'], 0, 0.0
  for row in rows:
    folders = [workdir / own for own in row['workdirs']]
    for what, written, again in check(row, folders):
      count, worst = count + 1, max(worst, abs(written - again))
      if not np.isclose(written, again, rtol=1e-5, atol=1e-6):
        raise SystemExit(
          f'error: {row["task"]} {row["run"]}, {what}: {written} is written, {again} recomputed'
        )
  if not count:
    raise SystemExit(f'error: {workdir}/grid.json has no numbers')
  print(f'{count} numbers of {len(rows)} runs recomputed; largest difference {worst:.1e}')


if __name__ == '__main__':
  main()
