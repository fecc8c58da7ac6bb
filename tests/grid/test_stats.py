"""Statistics against scipy, scikit-learn's metrics and closed forms."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from kdjax import metrics
from kdjax.grid import stats


def test_the_share_of_a_gap_is_that_of_the_means():
  assert stats.share([0.8, 0.9], [0.7, 0.7], [0.9]) == pytest.approx(0.75)
  assert stats.share([0.6], [0.7], [0.9]) == pytest.approx(-0.5)
  assert stats.share([0.8], [0.9], [0.9]) is None and stats.share([0.8], [0.9], [0.8]) is None


@pytest.mark.parametrize('classes', [2, 3])
@pytest.mark.parametrize('metric', ['accuracy', 'f1', 'f1_macro', 'f1_micro', 'matthews'])
def test_a_metric_of_sums_is_scikit_learns(rng, metric, classes):
  for n in (5, 200):
    label = rng.integers(0, classes, n).astype(np.int32)
    decision = np.where(rng.random(n) < 0.6, label, rng.integers(0, classes, n)).astype(np.int32)
    label[0], decision[0] = classes - 1, 0
    sums = stats.features(metric, decision, label, classes).sum(0)
    want = metrics.METRICS[metric](decision, label)
    np.testing.assert_allclose(stats.value(metric, sums, classes), want, atol=1e-12)


@pytest.mark.parametrize('metric', ['pearson', 'spearman', 'mse'])
def test_a_metric_of_scores_is_scipys(rng, metric):
  label = 1000 + rng.integers(0, 9, 300) / 2  # ties, and a mean that would cancel
  decision = label + rng.normal(size=300)
  sums = stats.features(metric, decision, label, 0).sum(0)
  want = metrics.METRICS[metric](decision, label)
  np.testing.assert_allclose(stats.value(metric, sums, 0), want, rtol=1e-7)


@pytest.mark.parametrize('metric', ['accuracy', 'f1', 'f1_macro', 'f1_micro'])
def test_a_metric_of_several_labels_is_scikit_learns(rng, metric):
  label, decision = (rng.integers(0, 2, (50, 3)).astype(np.float32) for _ in range(2))
  label[:, 2] = decision[:, 2] = 0  # a label that nobody has is a column all the same
  want = metrics.METRICS[metric](decision, label)
  sums = stats.features(metric, decision, label, 0).sum(0)
  np.testing.assert_allclose(stats.value(metric, sums, 0), want, rtol=1e-9)
  found = stats.paired(metric, [decision], [label], label, 100)
  perfect = metrics.METRICS[metric](label, label)
  assert found.mean == pytest.approx(want - perfect) and found.decided


def test_many_classes_take_the_memory_of_as_many_columns(rng):
  label, decision = (rng.integers(0, 150, 400) for _ in range(2))
  assert stats.features('f1_macro', decision, label, 150).shape == (400, 2 + 3 * 150)


def test_a_resample_is_the_metric_of_the_drawn_rows(rng):
  label, decision = (rng.integers(0, 2, 60).astype(np.int32) for _ in range(2))
  rows = rng.integers(60, size=60)
  weights = np.bincount(rows, minlength=60)
  got = stats.value('matthews', weights @ stats.features('matthews', decision, label, 2), 2)
  np.testing.assert_allclose(got, metrics.METRICS['matthews'](decision[rows], label[rows]))


def test_the_interval_of_one_seed_is_scipys_bootstrap():
  rng = np.random.default_rng(3)
  label = rng.integers(0, 2, 400)
  ours = np.where(rng.random(400) < 0.8, label, 1 - label)
  theirs = np.where(rng.random(400) < 0.75, label, 1 - label)
  found = stats.paired('accuracy', [ours], [theirs], label, 4000)
  data = ((ours == label).astype(float) - (theirs == label),)
  want = scipy_stats.bootstrap(data, np.mean, n_resamples=4000, method='percentile', rng=0)
  assert found.mean == pytest.approx(data[0].mean())
  low, high = want.confidence_interval
  assert found.low == pytest.approx(low, abs=4e-3) and found.high == pytest.approx(high, abs=4e-3)
  # The normal approximation of a mean of independent differences.
  deviation = data[0].std(ddof=1) / 20
  assert (found.high - found.low) / 2 == pytest.approx(1.96 * deviation, rel=0.06)


def test_where_all_examples_agree_the_interval_is_over_seeds():
  label = np.zeros(100, np.int64)
  right, wrong = np.zeros(100, np.int64), np.ones(100, np.int64)
  # Seeds differ from KD by 1, 0, 0: scipy resamples those three numbers.
  found = stats.paired('accuracy', [right, right, wrong], [wrong, right, wrong], label, 2000)
  want = scipy_stats.bootstrap(
    ([1.0, 0.0, 0.0],), np.mean, n_resamples=2000, method='percentile', rng=0
  ).confidence_interval
  assert found == (pytest.approx(1 / 3), *want)


def test_a_model_against_itself_is_undecided_and_a_better_one_is_not(rng):
  label = rng.integers(0, 3, 500)
  poor = rng.integers(0, 3, 500)
  assert stats.paired('f1', [poor], [poor], label, 200) == (0, 0, 0)
  assert not stats.paired('f1', [poor], [poor], label, 200).decided
  assert stats.paired('accuracy', [label, label], [poor, poor], label, 200).decided


def test_pairs_of_other_shapes_are_refused():
  a = np.zeros(3, int)
  with pytest.raises(ValueError, match='1 and 2 seeds'):
    stats.paired('accuracy', [a], [a, a], a, 10)
  with pytest.raises(ValueError, match='rows'):
    stats.paired('accuracy', [a], [a[:2]], a, 10)
