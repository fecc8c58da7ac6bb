"""AugPro, and a student whose every token follows the teacher's, on the text and on the new one.

python -m kdjax.main --config=configs/augpro_tokens.py[:task] --workdir=DIR

Not measured yet.
"""

from configs import augpro, common, pkd_tokens


def methods() -> dict:
  """By name: what --config.compare can name."""
  beside = dict(name='pkd', on='both', **pkd_tokens.TERM)
  return dict(augpro_tokens=augpro.methods()['augpro'] | dict(also=beside))


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'augpro_tokens')
  c.compare = 'kd,augpro,pkd_tokens'
  return c
