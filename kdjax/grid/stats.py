"""Statistics of a table: spreads over seeds, the share of a gap, paired differences.

Every metric of a task is a function of sums over examples; a resample is then one product of
weights and features, exact for each metric that scikit-learn and scipy define so.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from kdjax import metrics

_OF_SCORES = ('pearson', 'spearman', 'mse')


class Interval(NamedTuple):
  """A mean difference, and the ends of its bootstrap interval."""

  mean: float
  low: float
  high: float

  @property
  def decided(self) -> bool:
    """Whether zero is outside."""
    return self.low > 0 or self.high < 0


def share(
  method: Sequence[float], student: Sequence[float], teacher: Sequence[float], metric: str = ''
):
  """(method - student) / (teacher - student) of means over seeds; None where there is no gap.

  metric: one of which lower is better has its gap the other way.
  """
  up = -1.0 if metric in metrics.LOWER else 1.0
  gap, closed = (up * (np.mean(each) - np.mean(student)) for each in (teacher, method))
  return float(closed / gap) if gap > 0 else None


def paired(
  metric: str,
  ours_Sn: Sequence[np.ndarray],
  theirs_Sn: Sequence[np.ndarray],
  label_n: np.ndarray,
  resamples: int,
  seed: int = 0,
  level: float = 0.95,
  classes: int = 0,
) -> Interval:
  """metric(ours) - metric(theirs), mean over seeds, with a percentile bootstrap interval.

  Examples are drawn with replacement, the same for both and for all seeds; and so are the seeds,
  where there are two or more, as pairs: seed s of the one against seed s of the other (Owen's
  pigeonhole bootstrap of two crossed factors, which errs on the side of width).

  Args:
    ours_Sn, theirs_Sn: decisions of each seed, [n] or [n, C] for several labels.
    label_n: [n] or [n, C].
    resamples: how many; 0: ends are NaN. classes: as of metrics.compute.

  Raises:
    ValueError: other numbers of seeds or rows.
  """
  shapes = {np.shape(d) for d in (*ours_Sn, *theirs_Sn, label_n)}
  if len(ours_Sn) != len(theirs_Sn) or len(shapes) > 1:
    raise ValueError(f'pairs of {len(ours_Sn)} and {len(theirs_Sn)} seeds, rows {shapes}')
  rng, n, seeds = np.random.default_rng(seed), len(label_n), len(ours_Sn)
  classes = _classes(metric, [*ours_Sn, *theirs_Sn], label_n, classes)
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
  """f64[n, K]: what is summed over examples.

  Of classes, or of several labels (classes 0): right, 1, and of each class hit, labelled, decided.
  """
  if metric in _OF_SCORES:
    x, y = decision.astype(np.float64), label.astype(np.float64)
    if metric == 'spearman':  # ranks among all rows, also in a resample
      x, y = stats.rankdata(x), stats.rankdata(y)
    if metric != 'mse':  # centred: sums of squares do not cancel
      x, y = x - x.mean(), y - y.mean()
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1)
  if label.ndim == 1:
    one_CC = np.eye(classes)
    label, decision = one_CC[label], one_CC[decision]
  right_n1 = (decision == label).all(1, keepdims=True)
  each = [right_n1, np.ones_like(right_n1), decision * label, label, decision]
  return np.concatenate(each, 1).astype(np.float64)


def value(metric: str, sums: np.ndarray, classes: int) -> np.ndarray:
  """The metric [...] of sums [..., K] of its features."""
  return _VALUES[metric](sums, classes)


def _classes(metric: str, decisions: list, label: np.ndarray, least: int) -> int:
  if label.ndim == 2 or metric in _OF_SCORES:
    return 0
  return max(least, int(max(label.max(), *(d.max() for d in decisions))) + 1)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b != 0)


def _each(sums: np.ndarray) -> list[np.ndarray]:
  """[..., C] each: rows of a class that were decided so, that are so labelled, that are decided."""
  return np.split(sums[..., 2:], 3, -1)


def _accuracy(sums, classes):
  del classes
  return _ratio(sums[..., 0], sums[..., 1])


def _f1(sums, classes):
  if classes != 2:
    return _f1_macro(sums, classes)
  hit, label, decision = _each(sums)
  return _ratio(2 * hit[..., 1], label[..., 1] + decision[..., 1])


def _f1_macro(sums, classes):
  hit, label, decision = _each(sums)
  both = label + decision
  # Of the classes that occur on either side; of several labels each is there, as a column.
  there = (both > 0).sum(-1) if classes else both.shape[-1]
  return _ratio(_ratio(2 * hit, both).sum(-1), there)


def _f1_micro(sums, classes):
  del classes
  hit, label, decision = (part.sum(-1) for part in _each(sums))
  return _ratio(2 * hit, label + decision)


def _matthews(sums, classes):
  del classes
  right, total = sums[..., 0], sums[..., 1]
  _, t, p = _each(sums)
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
