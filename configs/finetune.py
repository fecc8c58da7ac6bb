"""Fine-tune a student on gold labels, no teacher asked.

python -m kdjax.main --config=configs/finetune.py[:task] --workdir=DIR
"""

from configs import common


def methods() -> dict:
  """By name: what --config.compare can name."""
  return dict(finetune=dict(name='finetune'))


def get_config(task: str = ''):
  """The whole config."""
  return common.config(task, 'finetune')
