"""Adversarial training on word embeddings beside KD: FreeLB, or one signed step.

python -m kdjax.main --config=configs/freelb.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32: 0.797 (KD 0.798, fine-tuned 0.796, teacher 0.860; one
seed, docs/short_runs.md). At most 4 minutes on 2 busy CPU cores, beside teacher.
"""

from configs import common


def methods() -> dict:
  """By name: what --config.compare can name."""
  free = dict(
    name='freelb',
    kind='freelb',  # or fgsm
    hard=1.0,  # weights: gold label, teacher on the text, the adversarial loss
    soft=1.0,
    augmented=1.0,
    temperature=1.0,
    target='label',  # of the adversarial loss; teacher: its answer to the text
    steps=3,  # freelb: points whose gradients are averaged
    rate=0.05,  # freelb: length of a step, the gradient having norm 1
    radius=0.1,  # freelb: of the ball: an example's displacement, where a word of MiniLM is 1 long
    epsilon=0.001,  # fgsm: step of every number of an embedding
  )
  return dict(freelb=free, freelb_fgsm=free | dict(kind='fgsm'))


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'freelb')
  c.compare = 'finetune,kd'
  return c
