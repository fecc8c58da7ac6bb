"""KD, and a student whose every token follows the teacher's, in all its layers.

python -m kdjax.main --config=configs/pkd_tokens.py[:task] --workdir=DIR

PKD's distance, of each token in the place of the first and of the last layer too. Ours, as are its
fields; the teacher is read in each step, and both models share one tokenizer.

3,028 pairs of QNLI: 0.651 ± 0.003 (KD 0.615, AugPro 0.637, teacher 0.782); 3,301 of MRPC: 0.697 ±
0.008 (0.672, 0.670, 0.786); five seeds, about twice KD's time (docs/results.md, docs/findings.md).
"""

from configs import common, kd

TERM = dict(
  pool='tokens',
  student_layers='all',
  teacher_layers='every',  # of 6, for a student of 2: the third and the sixth
  weight=5.0,
)


def methods() -> dict:
  """By name: what --config.compare can name."""
  return dict(pkd_tokens=kd.methods()['kd'] | dict(name='pkd') | TERM)


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'pkd_tokens')
  c.compare = 'finetune,kd'
  return c
