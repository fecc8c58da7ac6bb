"""Combined-KD: Annealing-KD's phases on text that MATE-KD's generator writes.

python -m kdjax.main --config=configs/comkd.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32: 0.788 (KD 0.798, fine-tuned 0.796, teacher 0.860; one
seed, docs/short_runs.md). At most 5 minutes on 2 busy CPU cores, beside teacher and generator.
"""

from configs import annealing_kd, common, mate_kd


def methods() -> dict:
  """By name: what --config.compare can name."""
  phases = annealing_kd.methods()['annealing_kd'] | dict(phases=(30, 10), t_max=10)
  game = mate_kd.GENERATOR | dict(gen_objective='mse')
  return dict(comkd=phases | game | dict(name='comkd', temperature=1.0))


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'comkd')
  c.compare = 'finetune,kd,annealing_kd,mate_kd'
  return c
