import numpy as np
import pytest

from kdjax.data import labels


def test_integer_like_names_are_sorted_by_size_and_others_by_letter():
  assert labels.infer(['10', '9', 2, 2.0, '10'], 'classes') == ('2', '9', '10')
  assert labels.infer(['b', '10', 'a', 'b'], 'classes') == ('10', 'a', 'b')


def test_missing_values_are_no_class():
  assert labels.infer(['b', None, '', float('nan'), 'a', -1], 'classes') == ('a', 'b')


def test_members_of_lists_and_bars_are_the_classes_of_a_multilabel_column():
  assert labels.infer(['b|a', '', ['c', 'a'], None], 'multilabel') == ('a', 'b', 'c')


def test_names_and_ids_are_both_understood():
  got = labels.classes(['yes', 0, '1', 1.0, np.int64(0)], ('no', 'yes'), 'f', False)
  np.testing.assert_array_equal(got, [1, 0, 1, 1, 0])
  assert got.dtype == np.int32


def test_names_that_are_integers_are_names_and_not_ids():
  np.testing.assert_array_equal(labels.classes([1, '2', 1], ('1', '2'), 'f', False), [0, 1, 0])
  with pytest.raises(ValueError, match=r'row 1 is 0'):
    labels.classes([0], ('1', '2'), 'f', False)


def test_minus_one_is_a_class_only_where_it_is_named():
  np.testing.assert_array_equal(labels.classes([-1, 1], ('-1', '1'), 'f', False), [0, 1])
  np.testing.assert_array_equal(
    labels.classes([-1, None, '', 1], ('a', 'b'), 'f', True), [-1, -1, -1, 1]
  )
  with pytest.raises(ValueError, match=r'f: row 2 has no label \(-1\)'):
    labels.classes([1, -1], ('a', 'b'), 'f', False)


def test_an_unknown_label_is_named_with_its_row_and_the_known_ones():
  with pytest.raises(ValueError, match=r"f: row 3 is 'maybe', .* 2 known labels \(no, yes\)"):
    labels.classes(['no', 'yes', 'maybe'], ('no', 'yes'), 'f', True)
  with pytest.raises(ValueError, match=r'row 1 is 2'):
    labels.classes([2], ('no', 'yes'), 'f', False)


def test_scores_are_finite_numbers():
  np.testing.assert_array_equal(labels.scores(['1.5', 2, -1], 'f', False), np.float32([1.5, 2, -1]))
  for bad in ('x', None, '', 'nan', float('inf'), 1e39, [1.0]):
    with pytest.raises(ValueError, match=r'f: row 2 is .* not a finite number'):
      labels.scores([1.0, bad], 'f', False)


def test_minus_one_throughout_is_a_score_outside_of_test():
  np.testing.assert_array_equal(labels.scores([-1.0, -1.0], 'f', False), [-1, -1])


def test_a_test_split_may_lack_scores():
  np.testing.assert_array_equal(labels.scores([None, '', 3.0], 'f', True), [np.nan, np.nan, 3])
  assert np.isnan(labels.scores([-1.0, -1.0], 'f', True)).all()
  np.testing.assert_array_equal(labels.scores([-1.0, 1.0], 'f', True), [-1, 1])


def test_a_bit_per_class_from_lists_ids_and_bars():
  got = labels.bits(['a|c', ['b'], [0, 2], '', []], ('a', 'b', 'c'), 'f', False)
  np.testing.assert_array_equal(got, [[1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0]])
  assert got.dtype == np.float32


def test_bits_name_unknown_members_and_missing_labels():
  with pytest.raises(ValueError, match=r"f: row 2 is 'z'"):
    labels.bits(['a', 'a|z'], ('a', 'b'), 'f', False)
  with pytest.raises(ValueError, match=r'f: row 1 has no label'):
    labels.bits([None], ('a', 'b'), 'f', False)
  assert np.isnan(labels.bits([None], ('a', 'b'), 'f', True)).all()


def test_flags_are_zero_or_one():
  np.testing.assert_array_equal(labels.flags(['0', 1, True, 0.0], 'f'), [0, 1, 1, 0])
  with pytest.raises(ValueError, match=r'f: row 2 is 2; it must be 0 or 1'):
    labels.flags([0, 2], 'f')
