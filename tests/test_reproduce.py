"""Means and spreads over seeds."""

from kdjax import report, reproduce


def _rows(kd, augpro):
  row = lambda value, speed: dict(  # noqa: E731
    parameters=2_000_000, validation=dict(accuracy=value), examples_per_second=speed
  )
  return dict(teacher=row(0.9, 100.0), kd=row(kd, 300.0), augpro=row(augpro, 300.0))


def test_the_difference_from_kd_is_paired_by_seed():
  text = reproduce.summary([_rows(0.80, 0.81), _rows(0.70, 0.72)], ('accuracy',))
  lines = {line.split('|')[1].strip(): line for line in text.splitlines() if line.count('|') > 3}
  assert '0.7500 ± 0.0707' in lines['kd']
  # 0.01 and 0.02: mean 0.015, deviation 0.0071, far below that of either column.
  assert '+0.0150 ± 0.0071' in lines['augpro']
  assert '3.0' in lines['augpro'] and '0.9000 ± 0.0000' in lines['teacher']
  assert 'over 2 seeds' in text


def test_one_seed_has_no_spread():
  assert report.spread([0.5]) == '0.5000'
