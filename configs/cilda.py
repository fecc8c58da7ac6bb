"""CILDA: MATE-KD whose generator also parts the hidden states of student and teacher.

python -m kdjax.main --config=configs/cilda.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32, with hard_new 2/9 and augmented 1/9, as it was then: 0.791
(KD 0.798, fine-tuned 0.796, teacher 0.860; one seed, docs/short_runs.md). At most 4 minutes on 2
busy CPU cores, beside teacher and generator. With what ships, and five seeds: docs/findings.md.
"""

from configs import common, mate_kd

# Of the contrast; a third party's values.
CONTRAST = dict(
  dims=128,  # of the projected layers
  tau=2.0,
  pool='first',  # token; or mean, over the real ones
  student_layers='all',  # or odd, skip, last, '1,3'
  teacher_layers='all',
  norm_log_k=False,  # divide by the logarithm of the batch size
)
TERM = CONTRAST | dict(weight=1.0)  # beside another method's views, lowered by the student


def methods() -> dict:
  """By name: what --config.compare can name."""
  mate = mate_kd.methods()['mate_kd']
  own = dict(
    name='cilda',
    hard=1 / 3,
    soft=1 / 3,
    augmented=1 / 3,
    hard_new=0.0,  # gold label on the new text: the third party has 2/9, and augmented 1/9
    gen_gap=0.5,
    gen_contrast=0.5,
    owner='generator',  # of the projections: generator (to raise the contrast), student, nobody
    student_contrast=0.0,  # the student lowers it too, with this weight
    student_on='new',  # on text, new or both
  )
  return dict(cilda=mate | CONTRAST | own)


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'cilda')
  c.compare = 'finetune,kd,mate_kd'
  return c
