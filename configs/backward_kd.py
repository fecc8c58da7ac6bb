"""Backward-pass KD: samples that climb the gap of student and teacher, learned beside the text.

python -m kdjax.main --config=configs/backward_kd.py[:task] --workdir=DIR

SST-2, a tenth of train, 160 steps of 32 with round=0.1: 0.782 (KD 0.798, fine-tuned 0.796, teacher
0.860; one seed, docs/short_runs.md). At most 5 minutes on 2 busy CPU cores, beside teacher. A run
that ends within its first round is refused: of an epoch or less, set round.

The defaults of the ascent are for MiniLM: on SST-2, with a teacher of 84 %, the gap grows 3 to 10
times over a mean displacement of 0.5 to 0.65 an example (a row of the table is 1.07 long, the next
row 1 away). Steps grow with the gap: look at `rise`, `moved_norm` and `capped`. Of images, models
and defaults are others: `:digits` distils a tiny perceptron in seconds.
"""

from configs import common


def methods() -> dict:
  """By name: what --config.compare can name."""
  return dict(
    backward_kd=dict(
      name='backward_kd',
      hard=1.0,  # weights: gold label, teacher on the text, teacher on the samples
      soft=1.0,
      augmented=1.0,
      hard_new=0.0,  # gold label on the samples
      temperature=1.0,
      also={},  # a term on hidden states beside it: see configs/augpro_codir.py
      rate=0.01,  # of the ascent on the teacher's word embeddings, times the gradient as it is
      steps=3,  # of the ascent
      cap=1.0,  # largest L2 norm of an example's displacement, in the units of the table
      map='residual',  # student reads E_S[x] + Q (z - E_T[x]); 'replace': Q z; 'same': Q = 1
      ridge=1e-4,  # of the fit of Q, as a share of the mean diagonal of W_T W_T^T
      round=1.0,  # epochs from one student to climb against to the next
      first_round=0.0,  # share of the samples' weights in the first round; 0: no samples yet
    )
  )


def on_images() -> dict:
  """What differs where the task is one of images: pixels in [0, 1] move."""
  return dict(backward_kd=dict(rate=0.01, cap=2.0))


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'backward_kd')
  c.compare = 'finetune,kd'
  return c
