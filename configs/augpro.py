"""AugPro: KD, and the teacher's labels on new text made by mixing or perturbing embeddings.

python -m kdjax.main --config=configs/augpro.py[:task] --workdir=DIR

docs (the default): minutes on 2 CPU cores, all four runs; validation accuracy 0.7208 (teacher
0.7183, KD 0.7058, fine-tuned 0.7058; one seed, README.md). SST-2, a tenth of train: 0.8184 ± 0.0058
(KD 0.8096 ± 0.0053; 3 seeds, docs/short_runs.md has the command).
"""

from configs import common


def methods() -> dict:
  """By name: what --config.compare can name."""
  mix = dict(
    name='augpro',
    kind='mix',  # or fgsm
    hard=1.0,  # weights: gold label, teacher on the text, teacher on the new text
    soft=1.0,
    augmented=1.0,
    hard_new=0.0,  # gold label on the new text
    temperature=1.0,
    also={},  # a term on hidden states beside it: see configs/augpro_codir.py
    lam_mode='token',  # lambda per token, per example, or fixed
    alpha=1.0,  # lambda ~ Beta(alpha, alpha)
    lam=0.5,  # lambda where fixed
    epsilon=0.18,  # fgsm: step in the units of the embedding table; moves a quarter of MiniLM's
    metric='l2',  # of the projection: l2, dot, cos, centred
    table='student',  # whose embeddings: student, teacher
    forbid_own=False,  # the projection may not give back the tokens it came from
    portion=1.0,  # share of the ordinary tokens that are open to change
    neighbours=4,  # of a token, remembered to project without a search (l2 alone); 0: search always
  )
  # A step of epsilon on every coordinate goes beyond a token's neighbours: a search it is.
  return dict(augpro=mix, augpro_fgsm=mix | dict(kind='fgsm', neighbours=0))


def get_config(task: str = ''):
  """The whole config."""
  c = common.config(task, 'augpro')
  c.compare = 'finetune,kd'
  return c
