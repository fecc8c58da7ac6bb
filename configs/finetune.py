"""Fine-tune a student on gold labels: layers of a teacher, which is then not asked.

python -m kdjax.main --config=configs/finetune.py[:task] --workdir=DIR

SST-2, a tenth of train: 0.8077 ± 0.0053 (teacher 0.8631 ± 0.0074; 3 seeds, docs/short_runs.md).
Two to three minutes on 2 CPU cores, beside the teacher.
"""

from configs import common


def methods() -> dict:
  """By name: what --config.compare can name."""
  return dict(finetune=dict(name='finetune'))


def get_config(task: str = ''):
  """The whole config."""
  return common.config(task, 'finetune')
