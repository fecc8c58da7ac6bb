"""Task metrics on gathered predictions, from scikit-learn and scipy."""

import numpy as np


def _safe(value: float) -> float:
  # A constant prediction has no correlation: 0 orders checkpoints, NaN would not.
  return 0.0 if np.isnan(value) else float(value)


def _correlation(name):
  def metric(decision: np.ndarray, label: np.ndarray) -> float:
    from scipy import stats

    if np.ptp(decision) == 0 or np.ptp(label) == 0:
      return 0.0
    return _safe(getattr(stats, name)(decision, label).statistic)

  return metric


def _accuracy(decision: np.ndarray, label: np.ndarray) -> float:
  same = decision == label
  return float(same.all(-1).mean() if same.ndim == 2 else same.mean())


def _f1(average=None):
  def metric(decision: np.ndarray, label: np.ndarray, classes: int = 0) -> float:
    from sklearn import metrics

    how = average
    if label.ndim == 2 and label.shape[1] == 1:  # scikit-learn would take its absence for a class
      decision, label, how = decision[:, 0], label[:, 0], 'binary'
    elif not how:
      classes = classes or 1 + int(max(label.max(), decision.max()))
      how = 'binary' if label.ndim == 1 and classes <= 2 else 'macro'
    return float(metrics.f1_score(label, decision, average=how, zero_division=0))

  return metric


def _matthews(decision: np.ndarray, label: np.ndarray) -> float:
  from sklearn import metrics

  return float(metrics.matthews_corrcoef(label, decision))


def _mse(decision: np.ndarray, label: np.ndarray) -> float:
  return float(np.square(decision - label).mean())


def best_order(score_CC: np.ndarray) -> tuple[int, ...]:
  """Class k is taken for order[k], so that most is right; score: rows decided k, labelled j."""
  from scipy import optimize

  return tuple(optimize.linear_sum_assignment(-score_CC)[1].tolist())


METRICS = dict(
  accuracy=_accuracy,  # multi-label: all labels of the example right
  f1=_f1(),  # of class 1 where there are two classes, macro otherwise
  f1_macro=_f1('macro'),
  f1_micro=_f1('micro'),
  matthews=_matthews,
  mse=_mse,
  pearson=_correlation('pearsonr'),
  spearman=_correlation('spearmanr'),
)

_LABELS = ('accuracy', 'f1', 'f1_macro', 'f1_micro')
OF = dict(  # which of them a kind of task has
  classes=(*_LABELS, 'matthews'), multilabel=_LABELS, regression=('pearson', 'spearman', 'mse')
)
LOWER = ('mse',)  # is better: never first, as the checkpoint with the highest value is kept


def compute(
  names: tuple[str, ...], decision: np.ndarray, label: np.ndarray, classes: int = 0
) -> dict[str, float]:
  """Values of the named metrics; decision and label: [n], or [n, C] for multi-label.

  classes: how many a task of classes has, which of its rows may lack some; 0: those that occur.

  Rows without a public label (-1, or NaN) must not come here: GLUE's test labels are -1.
  """
  if decision.shape != label.shape or len(label) == 0:
    raise ValueError(f'cannot score predictions {decision.shape} against labels {label.shape}')
  if (label < 0).any() if label.dtype.kind == 'i' else np.isnan(label).any():
    raise ValueError('rows without a label (-1) cannot be scored')
  more = dict(f1=dict(classes=classes))
  return {name: METRICS[name](decision, label, **more.get(name, {})) for name in names}
