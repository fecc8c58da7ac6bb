"""MATE-KD: a masked language model writes text on which student and teacher part.

python -m kdjax.main --config=configs/mate_kd.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32: 0.794 (KD 0.798, fine-tuned 0.796, teacher 0.860; one
seed, docs/short_runs.md). At most 3 minutes on 2 busy CPU cores, beside teacher and generator.
"""

from configs import common

# What a method with a generator has beside its own fields; its model is config.generator.
GENERATOR = dict(
  generator=True,
  rho=0.3,  # share of the ordinary tokens that are hidden and written anew
  slack=2.0,  # room for hidden tokens in a row, standard deviations above their mean number
  gumbel=1.0,  # temperature of the relaxed one-hot, for its gradient alone
  ordinary_only=True,  # False, as released: [PAD], [CLS], [unused] may be written too
  gen_turns=10,  # batches of the generator, then of the student, and again
  student_turns=100,
  gen_objective='kl',  # of the paper; cross_entropy: of the released code; mse: Combined-KD
  gen_gap=1.0,  # weight of the objective
  gen_rate=5e-5,  # no warm-up, decay to 0 over its own turns; released: 5e-7
  gen_dropout=True,  # of the generator in the student's turn
  student_dropout=True,  # of the student in the generator's turn
)


def methods() -> dict:
  """By name: what --config.compare can name."""
  return dict(
    mate_kd=dict(
      name='mate_kd',
      hard=1 / 3,  # weights: gold label, teacher on the text, teacher on the new text
      soft=1 / 3,
      augmented=1 / 3,
      hard_new=0.0,  # gold label on the new text
      temperature=1.0,
      also={},  # a term on hidden states beside it, in the student's turn
      **GENERATOR,
    )
  )


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'mate_kd')
  c.compare = 'finetune,kd'
  return c
