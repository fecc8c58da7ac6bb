"""A masked language model learns another's guesses: a student of no task, from unlabelled text.

python -m kdjax.main --config=configs/mlm_kd.py:text --workdir=DIR --config.data.unlabelled=FILES

With a task's name in the place of text, the task's train split is read too, and alone where no
FILES are named. The teacher, config.teacher, is trained as a masked language model first, unless
config.teacher.finetune=False says that it is one. The student is DIR/mlm_kd/model: any other config
begins from it by --config.student.init=DIR/mlm_kd/model.

10,000 film reviews in rows of 64 tokens, two layers of all-MiniLM-L6, 250 steps of 32: it guesses
17.5 % of hidden tokens, its teacher 24.4 %; fine-tuned on a tenth of SST-2 it is ahead by a point
after 70 steps and not after 210 (docs/short_runs.md). Half an hour on 2 busy CPU cores, with
teacher and codir_pre.
"""

from configs import common, mlm


def methods() -> dict:
  """By name: what --config.compare can name, of methods of masked language models."""
  return dict(
    mlm_kd=dict(
      name='mlm_kd',
      hard=0.5,  # weights of hidden token and teacher, and temperature: as CoDIR's scripts have
      soft=0.5,
      temperature=2.0,
      **mlm.HIDDEN,
      weight=0.0,  # of the contrast of hidden states; 0: none
      tau=0.07,  # the contrast's: as in configs/codir.py, whose pre-training is not released
      dims=128,  # of the projected layers
      pool='mean',  # over real tokens, the paper's; first: token, which a window has no use for
      student_layers='all',  # or odd, skip, last, '1,3'
      teacher_layers='odd',
    )
  )


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'mlm_kd')
  c.train.eval_every = 1000  # an epoch may be days
  return c
