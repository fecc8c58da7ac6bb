"""AugPro with CILDA's contrast of hidden states beside it.

python -m kdjax.main --config=configs/augpro_cilda.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32: 0.807 (KD 0.798, fine-tuned 0.796, teacher 0.860; one
seed, docs/short_runs.md). At most 7 minutes on 2 busy CPU cores, beside teacher.
"""

from configs import augpro, cilda, common


def methods() -> dict:
  """By name: what --config.compare can name."""
  beside = dict(name='cilda', on='new', **cilda.TERM)
  return dict(augpro_cilda=augpro.methods()['augpro'] | dict(also=beside))


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'augpro_cilda')
  c.compare = 'kd,augpro'
  return c
