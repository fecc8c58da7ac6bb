"""Statistics of a table: spreads over seeds, the share of a gap, paired differences.

Every metric of a task is a function of sums over examples; a resample is then one product of
weights and features, exact for each metric that scikit-learn and scipy define so.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
  """A mean difference, and the ends of its bootstrap interval."""

  mean: float
  low: float
  high: float

  @property
  def decided(self) -> bool:
    """Whether zero is outside."""
    return self.low > 0 or self.high < 0


def share(method: Sequence[float], student: Sequence[float], teacher: Sequence[float]):
  """(method - student) / (teacher - student) of means over seeds; None where there is no gap."""
  gap = np.mean(teacher) - np.mean(student)
  return float((np.mean(method) - np.mean(student)) / gap) if gap > 0 else None


def paired(
  metric: str,
  ours_Sn: Sequence[np.ndarray],
  theirs_Sn: Sequence[np.ndarray],
  label_n: np.ndarray,
  resamples: int,
  seed: int = 0,
  level: float = 0.95,
) -> Interval:
  """metric(ours) - metric(theirs), mean over seeds, with a percentile bootstrap interval.

  Examples are drawn with replacement, the same for both and for all seeds; and so are the seeds,
  where there are two or more, as pairs: seed s of the one against seed s of the other (Owen's
  pigeonhole bootstrap of two crossed factors, which errs on the side of width).

  Args:
    ours_Sn, theirs_Sn: decisions of each seed, [n] or [n, C] for several labels.
    label_n: [n] or [n, C].
    resamples: how many; 0: ends are NaN.

  Raises:
    ValueError: other numbers of seeds or rows.
  """
  shapes = {np.shape(d) for d in (*ours_Sn, *theirs_Sn, label_n)}
  if len(ours_Sn) != len(theirs_Sn) or len(shapes) > 1:
    raise ValueError(f'pairs of {len(ours_Sn)} and {len(theirs_Sn)} seeds, rows {shapes}')
  rng, n, seeds = np.random.default_rng(seed), len(label_n), len(ours_Sn)
  classes = _classes(metric, [*ours_Sn, *theirs_Sn], label_n)
  sides = [[features(metric, d, label_n, classes) for d in side] for side in (ours_Sn, theirs_Sn)]

  def differences(weights_Rn: np.ndarray) -> np.ndarray:
    ours, theirs = (
      np.stack([value(metric, weights_Rn @ f, classes) for f in side], 1) for side in sides
    )
    return ours - theirs

  mean = float(differences(np.ones((1, n))).mean())
  if not resamples:
    return Interval(mean, np.nan, np.nan)
  found = []
  for start in range(0, resamples, 100):  # a block of weights at a time: n may be 400,000
    rows = min(100, resamples - start)
    drawn = differences(rng.multinomial(n, np.full(n, 1 / n), rows).astype(np.float64))
    if seeds > 1:
      which = rng.integers(seeds, size=(rows, seeds))
      drawn = np.take_along_axis(drawn, which, 1)
    found.append(drawn.mean(1))
  ends = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
  return Interval(mean, *(float(v) for v in ends))


def features(metric: str, decision: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
  """f64[n, K]: what is summed over examples."""
  if label.ndim == 2:
    right = (decision == label).all(1)
    hit, bits = (decision * label).sum(1), (decision + label).sum(1)
    return np.stack([right, np.ones(len(label)), 2 * hit, bits], 1).astype(np.float64)
  if metric in ('pearson', 'spearman', 'mse'):
    x, y = decision.astype(np.float64), label.astype(np.float64)
    if metric == 'spearman':  # ranks among all rows, also in a resample
      x, y = stats.rankdata(x), stats.rankdata(y)
    if metric != 'mse':  # centred: sums of squares do not cancel
      x, y = x - x.mean(), y - y.mean()
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1)
  return np.eye(classes * classes)[label * classes + decision]  # the confusion matrix


def value(metric: str, sums: np.ndarray, classes: int) -> np.ndarray:
  """The metric [...] of sums [..., K] of its features."""
  return _VALUES[metric](sums, classes)


def _classes(metric: str, decisions: list, label: np.ndarray) -> int:
  if label.ndim == 2 or metric in ('pearson', 'spearman', 'mse'):
    return 0
  return int(max(label.max(), *(d.max() for d in decisions))) + 1


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b != 0)


def _matrix(sums: np.ndarray, classes: int) -> np.ndarray:
  return sums.reshape(*sums.shape[:-1], classes, classes)  # [label, decision]


def _accuracy(sums, classes):
  if not classes:
    return _ratio(sums[..., 0], sums[..., 1])
  right = np.trace(_matrix(sums, classes), axis1=-2, axis2=-1)
  return _ratio(right, sums.sum(-1))


def _f1_each(sums, classes):
  m = _matrix(sums, classes)
  right = np.diagonal(m, axis1=-2, axis2=-1)
  return _ratio(2 * right, m.sum(-1) + m.sum(-2)), (m.sum(-1) + m.sum(-2)) > 0


def _f1(sums, classes):
  return _f1_each(sums, classes)[0][..., 1] if classes == 2 else _f1_macro(sums, classes)


def _f1_macro(sums, classes):
  each, there = _f1_each(sums, classes)  # of the classes that occur on either side
  return _ratio(each.sum(-1), there.sum(-1))


def _f1_micro(sums, classes):
  return _ratio(sums[..., 2], sums[..., 3]) if not classes else _accuracy(sums, classes)


def _matthews(sums, classes):
  m = _matrix(sums, classes)
  total, right = m.sum((-1, -2)), np.trace(m, axis1=-2, axis2=-1)
  t, p = m.sum(-1), m.sum(-2)
  up = right * total - (t * p).sum(-1)
  down = np.sqrt((total**2 - (p**2).sum(-1)) * (total**2 - (t**2).sum(-1)))
  return _ratio(up, down)


def _correlation(sums, classes):
  del classes
  n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
  down = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
  return _ratio(n * xy - x * y, down)


def _mse(sums, classes):
  del classes
  n, _, _, xx, yy, xy = np.moveaxis(sums, -1, 0)
  return _ratio(xx + yy - 2 * xy, n)


_VALUES: dict[str, Callable[..., np.ndarray]] = dict(
  accuracy=_accuracy,
  f1=_f1,
  f1_macro=_f1_macro,
  f1_micro=_f1_micro,
  matthews=_matthews,
  pearson=_correlation,
  spearman=_correlation,
  mse=_mse,
)
