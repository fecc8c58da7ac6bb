"""AugPro with CoDIR's contrast of hidden states beside it.

python -m kdjax.main --config=configs/augpro_codir.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32: 0.801 (KD 0.798, fine-tuned 0.796, teacher 0.860; one
seed, docs/short_runs.md). At most 4 minutes on 2 busy CPU cores, beside teacher.
"""

from configs import augpro, codir, common


def methods() -> dict:
  """By name: what --config.compare can name."""
  beside = dict(name='codir', on='text', **codir.TERM)  # on text, new or both
  return dict(augpro_codir=augpro.methods()['augpro'] | dict(also=beside))


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'augpro_codir')
  c.compare = 'kd,augpro,codir'
  return c
