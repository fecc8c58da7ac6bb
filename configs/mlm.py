"""A masked language model of the task's text: the generator of MATE-KD and its kin, trained alone.

python -m kdjax.main --config=configs/mlm.py[:task] --workdir=DIR
python -m kdjax.main --config=configs/mlm.py:text --config.data.unlabelled=FILES --workdir=DIR

Text is the train split's and that of config.data.unlabelled, or, with :text, of the latter alone.
What it starts from, its layers, steps and rate are config.generator; its labels are not used. The
model is DIR/generator/model. Another run takes it as it is by
--config.generator.init=DIR/generator/model --config.generator.finetune=False

As a teacher of configs/mlm_kd.py, all-MiniLM-L6 with a new head went from 0 to 24.4 % of hidden
tokens in 200 steps of 32 rows of 64 tokens (docs/short_runs.md): minutes on 2 busy CPU cores.
"""

from configs import common

# What a method that hides tokens has beside its own fields.
HIDDEN = dict(
  rho=0.15,  # share of the ordinary tokens that are hidden
  slack=3.0,  # room for hidden tokens in a row, standard deviations above their mean number
  style='bert',  # 80 % [MASK], 10 % random, 10 % as they are; mask: all [MASK]
)


def methods() -> dict:
  """By name; it trains no classifier, so that --config.compare does not name it."""
  return dict(mlm=dict(name='mlm', **HIDDEN))


def get_config(task: str = ''):
  """The whole config."""
  return common.config(task, 'mlm')
