"""AugPro with CILDA's contrast of hidden states beside it.

python -m kdjax.main --config=configs/augpro_cilda.py[:task] --workdir=DIR
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
