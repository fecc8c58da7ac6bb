"""The bias of a classifier, fitted anew to labels when a run has ended.

A method that writes text for the teacher to label asks about another mixture of classes than the
task has: of two sentences of which one has other words in it, few say the same. Its student says
that class too seldom, although it tells the pairs apart better. One number a class mends it.
"""

import numpy as np

from kdjax import net


def bias(logits_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
  """f32[C] to add to logits: the likeliest by the labels, with mean 0.

  The bias of vector scaling (Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
  section 4.2) with its scales held at 1, and a standard normal prior on each number, which few rows
  do not notice, and which keeps a class that no label has from minus infinity.

  Args:
    logits_NC: float, of rows that the model has not learned from. label_N: int class ids.

  Raises:
    ValueError: no rows, a row without a label, or logits that are not finite.
  """
  from scipy import optimize, special

  logits_NC = np.asarray(logits_NC, np.float64)
  if not len(label_N) or label_N.min() < 0 or not np.isfinite(logits_NC).all():
    raise ValueError('a bias is fitted to finite logits of one or more rows that all have a label')
  share_C = np.bincount(label_N, minlength=logits_NC.shape[1]) / len(label_N)

  def surprise(b_C):
    moved_NC = logits_NC + b_C
    prior = np.square(b_C).sum() / 2 / len(label_N)
    slope_C = special.softmax(moved_NC, 1).mean(0) - share_C + b_C / len(label_N)
    return special.logsumexp(moved_NC, 1).mean() - share_C @ b_C + prior, slope_C

  # The prior alone says where the mean of the numbers is, which moves no decision: it is 0.
  found = optimize.minimize(surprise, np.zeros_like(share_C), jac=True, tol=1e-10).x
  return found.astype(np.float32)


def moved(params: net.Params, by_C: np.ndarray) -> net.Params:
  """Parameters of a classifier, of text or of images, whose logits are higher by that."""
  if 'head' in params:
    return params | dict(head=moved(params['head'], by_C))
  out = params['out']
  return params | dict(out=out | dict(bias=out['bias'] + by_C))
