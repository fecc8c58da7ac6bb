"""MixKD: mixup of word embeddings; the student learns the teacher's answer to the mixture.

python -m kdjax.main --config=configs/mixkd.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32: 0.804 (KD 0.798, fine-tuned 0.796, teacher 0.860; one
seed, docs/short_runs.md). At most 3 minutes on 2 busy CPU cores, beside teacher.
"""

from configs import common


def methods() -> dict:
  """By name: what --config.compare can name."""
  return dict(
    mixkd=dict(
      name='mixkd',
      hard=1.0,  # weights: gold label, teacher on the text, teacher on the mixture
      soft=1.0,
      augmented=1.0,
      hard_new=1.0,  # the two gold labels on the mixture
      temperature=1.0,
      also={},  # a term on hidden states beside it: see configs/augpro_codir.py
      alpha=0.4,  # lambda ~ Beta(alpha, alpha), one per example
    )
  )


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'mixkd')
  c.compare = 'finetune,kd'
  return c
