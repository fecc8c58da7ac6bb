"""Token replacement: tokens exchanged for near or likely ones; the teacher labels the new text.

python -m kdjax.main --config=configs/token_replace.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32: 0.808 (KD 0.798, fine-tuned 0.796, teacher 0.860; one
seed, docs/short_runs.md). At most 2 minutes on 2 busy CPU cores, beside teacher.

The neighbours of MiniLM's 30,522 tokens are found once, in 12 seconds on 2 CPU cores.
"""

from configs import common


def methods() -> dict:
  """By name: what --config.compare can name."""
  near = dict(
    name='token_replace',
    kind='nearest',  # in the teacher's word table; mlm: by a masked language model
    generator=False,  # True, for mlm: load config.generator
    hard=1.0,  # weights: gold label, teacher on the text, teacher on the new text
    soft=1.0,
    augmented=1.0,
    hard_new=0.0,  # gold label on the new text
    temperature=1.0,
    also={},  # a term on hidden states beside it: see configs/augpro_codir.py
    portion=0.4,  # probability that an ordinary token is replaced
    candidates=15,  # of which one is drawn, each as likely
  )
  mlm = near | dict(kind='mlm', generator=True)
  return dict(token_replace=near, token_replace_mlm=mlm)


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'token_replace')
  c.compare = 'finetune,kd'
  return c
