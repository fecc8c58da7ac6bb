"""What speaks against a teacher that is taken as it is: a wrong one fails without a word.

Its answers are compared with gold labels; and with them in any other order of the classes.
"""

import numpy as np

from kdjax import metrics, tasks

_CLEAR = 0.1  # of a correlation


def _chance(n: int) -> float:
  """A difference of shares that n rows do not have by chance: four standard errors and more."""
  return 2 / n**0.5


def of(logits_NC: np.ndarray, label: np.ndarray, spec: tasks.Spec) -> list[str]:
  """Sentences, none where all is well; of rows that all have a label."""
  decision = np.asarray(tasks.KINDS[spec.kind].decide(logits_NC))
  rate = dict(classes=_classes, multilabel=_label_sets, regression=_scores)[spec.kind]
  return rate(decision, label, spec)


def _classes(decision: np.ndarray, label: np.ndarray, spec: tasks.Spec) -> list[str]:
  C, out = spec.num_labels, []
  counts = np.zeros((C, C), int)
  np.add.at(counts, (decision, label), 1)
  right, share = np.trace(counts) / len(label), counts.sum(0) / len(label)
  if right <= share.max():
    out.append(
      f'right on {right:.1%} of {len(label)} rows, no more than who always says '
      f'{spec.labels[share.argmax()]!r}: {share.max():.1%}'
    )
  order = metrics.best_order(counts)
  other = counts[np.arange(C), order].sum() / len(label)
  if other > max(share.max() + _chance(len(label)) / 2, right + _chance(len(label))):
    out.append(_turned(order, f'right on {other:.1%}', spec))
  return out


def _label_sets(decision: np.ndarray, label: np.ndarray, spec: tasks.Spec) -> list[str]:
  f1 = lambda found: metrics.compute(('f1_micro',), found, label)['f1_micro']  # noqa: E731
  out, own, often = [], f1(decision), label.mean(0) >= 0.5
  always = f1(np.broadcast_to(often if often.any() else label.mean(0) == label.mean(0).max(),
                              label.shape).astype(label.dtype))  # fmt: skip
  if own <= always:
    out.append(
      f'of F1 {own:.3f} on {len(label)} rows, no more than who always says the same: {always:.3f}'
    )
  alike = (decision[:, :, None] == label[:, None]).mean(0)
  order = metrics.best_order(alike)
  turned = np.empty_like(decision)
  turned[:, order] = decision
  other = f1(turned)
  if other > own + _chance(len(label)):
    out.append(_turned(order, f'of F1 {other:.3f}', spec))
  return out


def _turned(order: tuple[int, ...], said: str, spec: tasks.Spec) -> str:
  names = ', '.join(spec.labels[k] for k in order)
  return (
    f'{said} with its classes taken for ({names}) instead of '
    f'({", ".join(spec.labels)}): they are numbered otherwise. Reorder its id2label and the '
    'rows of its classifier, or the names in config.task.labels'
  )


def _scores(decision: np.ndarray, label: np.ndarray, spec: tasks.Spec) -> list[str]:
  del spec
  pearson = metrics.compute(('pearson',), decision, label)['pearson']
  out = []
  if pearson < _CLEAR:
    out.append(f'of a correlation of {pearson:.2f} with the scores of {len(label)} rows')
  if np.sqrt(np.square(decision - label).mean()) > 2 * label.std():
    out.append(
      f'on another scale: its scores are {decision.mean():.2f} ± {decision.std():.2f}, the gold '
      f'ones {label.mean():.2f} ± {label.std():.2f}'
    )
  return out
