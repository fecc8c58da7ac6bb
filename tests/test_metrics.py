"""Task metrics against hand-worked values."""

import numpy as np
import pytest

from kdjax import metrics, tasks


def _one(name, decision, label):
  return metrics.compute((name,), np.array(decision), np.array(label))[name]


def test_values_are_the_hand_worked_ones():
  decision, label = [1, 1, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0]
  assert _one('accuracy', decision, label) == pytest.approx(4 / 6)
  assert _one('f1', decision, label) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
  # (TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN))
  assert _one('matthews', decision, label) == pytest.approx((2 * 2 - 1) / 9)


def test_correlations_are_the_formulas(rng):
  a, b = rng.normal(size=50), rng.normal(size=50)
  assert _one('pearson', a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
  ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
  assert _one('spearman', a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])
  assert _one('mse', a, b) == pytest.approx(((a - b) ** 2).mean())


def test_a_constant_prediction_scores_zero_not_nan():
  assert _one('pearson', [1.0, 1.0, 1.0], [0.1, 0.5, 0.9]) == 0
  assert _one('spearman', [1.0, 1.0, 1.0], [0.1, 0.5, 0.9]) == 0
  assert _one('matthews', [1, 1, 1], [0, 1, 0]) == 0


def test_label_sets_are_right_as_a_whole_or_by_label():
  decision, label = [[1, 0], [1, 1]], [[1, 0], [0, 1]]
  assert _one('accuracy', decision, label) == 0.5
  assert _one('f1_micro', decision, label) == pytest.approx(2 * 2 / (2 * 2 + 1))


def test_f1_of_three_classes_is_the_macro_mean():
  decision, label = [0, 1, 2, 2], [0, 1, 2, 1]
  assert _one('f1', decision, label) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_f1_is_macro_where_no_row_has_the_third_class():
  decision, label = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
  found = {C: metrics.compute(('f1',), decision, label, C)['f1'] for C in (0, 2, 3)}
  assert found == pytest.approx({0: 2 / 3, 2: 2 / 3, 3: (2 / 3 + 4 / 5) / 2})


@pytest.mark.parametrize('name', ['f1', 'f1_macro', 'f1_micro'])
def test_f1_of_one_label_is_that_labels_f1(name):
  label = np.array([[1], [0], [0], [1], [0]])
  assert _one(name, np.zeros_like(label), label) == 0
  assert _one(name, [[1], [1], [0], [0], [0]], label) == pytest.approx(1 / 2)


DIFFERS = dict(
  classes=([[2, 1, 0], [2, 1, 0]], [[9, 8, 7], [1, 2, 0]], [False, True]),
  # The deviation is 1: what is more than 0.5 away is another score.
  regression=([[0], [2], [0], [2]], [[0.49], [1.51], [-0.51], [9]], [False, False, True, True]),
  # One label of another sign is another set.
  multilabel=([[1, -1], [1, -1], [1, -1]], [[9, -9], [1, 1], [-1, 1]], [False, True, True]),
)


@pytest.mark.parametrize('kind', tasks.KINDS)
def test_two_texts_differ_by_their_class_label_set_or_half_a_deviation(kind):
  a, b, want = (np.array(x) for x in DIFFERS[kind])
  np.testing.assert_array_equal(tasks.KINDS[kind].differs(a, b), want)


def test_unlabelled_or_misshaped_rows_are_refused():
  with pytest.raises(ValueError, match='without a label'):
    _one('accuracy', [0, 1], [0, -1])
  with pytest.raises(ValueError, match='without a label'):
    _one('pearson', [0.0, 1.0], [0.0, np.nan])
  with pytest.raises(ValueError, match='cannot score'):
    _one('accuracy', [0, 1], [0, 1, 1])
  with pytest.raises(ValueError, match='cannot score'):
    _one('accuracy', [], [])


def test_every_task_names_metrics_that_exist_and_classes_that_fit():
  assert len(tasks.GLUE) == 10
  for spec in [*tasks.GLUE.values(), tasks.DOCS]:
    assert set(spec.metrics) <= set(metrics.METRICS)
    assert spec.kind in tasks.KINDS
    assert spec.num_labels == 1 if spec.kind == 'regression' else spec.name == 'docs' or spec.labels
