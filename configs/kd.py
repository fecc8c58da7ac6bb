"""Knowledge distillation: the teacher's soft labels beside the gold ones.

python -m kdjax.main --config=configs/kd.py[:task] --workdir=DIR

SST-2, a tenth of train: 0.8096 ± 0.0053 (teacher 0.8631 ± 0.0074; 3 seeds, docs/short_runs.md).
Two to three minutes on 2 CPU cores, beside the teacher.
"""

from configs import common


def methods() -> dict:
  """By name: what --config.compare can name."""
  return dict(
    kd=dict(
      name='kd',
      hard=1.0,  # weight of the gold label
      soft=1.0,  # weight of the teacher
      temperature=1.0,
    )
  )


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'kd')
  c.compare = 'finetune'
  return c
