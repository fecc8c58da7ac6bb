"""CoDIR: KD, and hidden states that know their own teacher among a bank of others.

python -m kdjax.main --config=configs/codir.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32: 0.804 (KD 0.798, fine-tuned 0.796, teacher 0.860; one
seed, docs/short_runs.md). At most 2 minutes on 2 busy CPU cores, beside teacher.
"""

from configs import common

# Of the contrast; kdjax.methods.codir says what paper and released code are.
TERM = dict(
  contrast='nce',  # released; info: InfoNCE, the paper's
  negatives=100,  # an example; released
  tau=0.07,  # released
  momentum=0.5,  # share of the old row in a bank's new one; released
  dims=128,  # of the projected layers; released
  pool='first',  # token, released; mean: over the real ones, the paper's
  student_layers='all',  # released; or odd, skip, last, '1,3'
  teacher_layers='odd',  # released: 1, 3, .., 11 of 12
  weight=0.1,  # ours
  per='example',  # mean over the batch, ours; batch, released: divided by the batch size again
  margin=0.5,  # regression: scores this many standard deviations away are negatives; ours
)


def methods() -> dict:
  """By name: what --config.compare can name."""
  return dict(
    codir=dict(
      name='codir',
      hard=0.5,  # weights of gold label and teacher, and temperature: the released script's
      soft=0.5,
      temperature=2.0,
      teacher_dropout=False,  # True is the released code's
      **TERM,
    )
  )


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'codir')
  c.compare = 'finetune,kd'
  return c
