"""PKD: KD, and a student that follows the teacher layer by layer.

python -m kdjax.main --config=configs/pkd.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32: 0.798 (KD 0.798, fine-tuned 0.796, teacher 0.860; one
seed, docs/short_runs.md). At most 1 minute on 2 busy CPU cores, beside teacher.
"""

from configs import common

TERM = dict(
  pool='first',  # token, the paper's; mean: over the real ones; tokens: each (pkd_tokens.py)
  student_layers='last',  # all below the last; or all, odd, '1,3'
  teacher_layers='skip',  # evenly below the last; every: with the last; or last, '2,4': one each
  weight=1.0,  # ours; the released search, 10 to 1000 per feature, is 0.013 to 1.3 at width 768
)


def methods() -> dict:
  """By name: what --config.compare can name."""
  return dict(
    pkd=dict(
      name='pkd',
      hard=0.5,  # weights of gold label and teacher, and temperature: in the released grid
      soft=0.5,
      temperature=5.0,
      **TERM,
    )
  )


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'pkd')
  c.compare = 'finetune,kd'
  return c
