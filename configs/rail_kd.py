"""RAIL-KD: KD, and hidden states that approach those of teacher layers drawn every epoch.

python -m kdjax.main --config=configs/rail_kd.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32: 0.803 (KD 0.798, fine-tuned 0.796, teacher 0.860; one
seed, docs/short_runs.md). At most 2 minutes on 2 busy CPU cores, beside teacher.
"""

from configs import common

TERM = dict(
  kind='concat',  # all layers as one vector; layer: each pair by heads of its own
  every='epoch',  # a new draw of layers; or step
  pool='mean',  # over the real tokens; first: token
  dims=128,  # of the projected layers
  weight=1 / 3,
)


def methods() -> dict:
  """By name: what --config.compare can name."""
  return dict(
    rail_kd=dict(
      name='rail_kd',
      hard=1 / 3,  # weights: gold label, teacher
      soft=1 / 3,
      temperature=1.0,
      **TERM,
    )
  )


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'rail_kd')
  c.compare = 'finetune,kd'
  return c
