"""Continuation-KD: from the teacher's shrunken logits to the gold labels, by degrees.

python -m kdjax.main --config=configs/continuation_kd.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32: 0.789 (KD 0.798, fine-tuned 0.796, teacher 0.860; one
seed, docs/short_runs.md). At most 2 minutes on 2 busy CPU cores, beside teacher.
"""

from configs import common


def methods() -> dict:
  """By name: what --config.compare can name."""
  return dict(
    continuation_kd=dict(
      name='continuation_kd',
      t_max=10,  # equal stages of the run in which the teacher's logits grow to full size
      margin=0.1,  # squared error that costs nothing, a mean over classes; ours
    )
  )


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'continuation_kd')
  c.compare = 'finetune,kd'
  return c
