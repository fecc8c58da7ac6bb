"""CoDIR's pre-training: mlm_kd, and hidden states that know their own teacher in the batch.

python -m kdjax.main --config=configs/codir_pre.py:text --workdir=DIR --config.data.unlabelled=FILES

As configs/mlm_kd.py. Rows of neighbouring text share a batch: those are the negatives. What to do
with the student is in docs/methods.md, Pre-training.

10,000 film reviews, as configs/mlm_kd.py says: 17.4 % of hidden tokens, no more than without the
contrast, which was too easy to teach anything (docs/short_runs.md). Half an hour with mlm_kd.
"""

from configs import common, mlm_kd


def methods() -> dict:
  """By name: what --config.compare can name, of methods of masked language models."""
  return dict(codir_pre=mlm_kd.methods()['mlm_kd'] | dict(weight=0.1))  # ours


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'codir_pre')
  c.train.eval_every = 1000
  if task == 'text':
    c.data.neighbours = 8  # of a batch of 32
  return c
