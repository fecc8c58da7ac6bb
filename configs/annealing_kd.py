"""Annealing-KD: regression on the teacher's growing logits, then gold labels.

python -m kdjax.main --config=configs/annealing_kd.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32: 0.786 (KD 0.798, fine-tuned 0.796, teacher 0.860; one
seed, docs/short_runs.md). At most 2 minutes on 2 busy CPU cores, beside teacher.
"""

from configs import common


def methods() -> dict:
  """By name: what --config.compare can name."""
  return dict(
    annealing_kd=dict(
      name='annealing_kd',
      phases=(14, 4),  # of the released command; the run is cut in this proportion
      t_max=7,  # equal stages of phase 1 in which the teacher's logits grow to full size
      clamp=True,  # False, as released: beyond full size where t_max does not divide the epochs
    )
  )


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'annealing_kd')
  c.compare = 'finetune,kd'
  return c
