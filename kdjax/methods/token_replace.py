"""Token replacement, the data augmentation of TinyBERT, Jiao et al. (2020), arXiv:1909.10351.

Each ordinary token is replaced, with some probability, by one of its K candidates; the teacher
labels the new text. The paper rewrites the training set 20 times before training (recalled, as are
the probability and K); here every step draws anew, so that no text is seen twice the same.

nearest: the candidates are the K nearest rows of the teacher's word table by cosine (the paper:
GloVe's, for words of several pieces). mlm: the K likeliest tokens of a masked language model where
the token is hidden (the paper: BERT's, for words of one piece, hidden one at a time; here all the
positions to be replaced are hidden at once). Ours: a token is never its own candidate, so that the
probability is the share that changes.
"""

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.methods import base, blend, masking

_BLOCK = 1024  # rows of the table compared with all others at once: 125 MB of scores


def make(c, env) -> base.Method:
  """KD, with replaced text beside it."""
  return blend.distil(c, env, view(c, env))


def view(c, env) -> blend.Part:
  """c.kind: 'nearest' or 'mlm'; c.candidates: K; c.portion: the probability."""
  base.check_images('token_replace', env.images)
  base.same_ids('token_replace', env)
  base.one_of(c, kind=('nearest', 'mlm'))
  base.share(c, 'portion')
  usable = int(env.ordinary.sum()) - 1
  if not 0 < c.candidates <= usable:
    raise ValueError(f'config.method.candidates={c.candidates} must be from 1 to {usable}')
  if c.kind == 'mlm' and (env.generator is None or env.mask_id is None):
    raise ValueError(
      "config.method.kind='mlm' asks a masked language model: name one in config.generator, and "
      'set config.method.generator=True'
    )

  def init(key, params, data):
    del key, data
    if c.kind == 'mlm':
      return {}, ()
    table_VE = env.teacher.table(params['teacher'])
    return {}, nearest(table_VE, env.ordinary[: len(table_VE)], c.candidates)

  def likeliest(params, batch, chosen_BL):  # i32[B, L, K]
    hidden = batch | dict(tokens=jnp.where(chosen_BL, env.mask_id, batch['tokens']))
    states_BLD = env.generator(params, hidden).hidden[-1]

    def at(column):  # one position of every text at a time: B x V logits, not B x L x V
      states_BD, own_B = column
      logits_BV = env.generator.decode(params, states_BD)
      usable_V = masking.sized(env.ordinary, logits_BV.shape[1])
      return best(logits_BV, own_B, usable_V, c.candidates)

    columns = states_BLD.swapaxes(0, 1), batch['tokens'].swapaxes(0, 1)
    return jax.lax.map(at, columns).swapaxes(0, 1)

  def call(params, memory, batch, student, teacher, key):
    del student, teacher
    k_open, k_pick = jax.random.split(key)
    tokens = batch['tokens']
    chosen_BL = jax.random.uniform(k_open, tokens.shape) < c.portion
    chosen_BL &= batch['maskable']
    if c.kind == 'mlm':
      candidates_BLK = likeliest(params['generator'], batch, chosen_BL)
    else:
      candidates_BLK = memory[tokens]
    pick_BL1 = jax.random.randint(k_pick, (*tokens.shape, 1), 0, c.candidates)
    drawn_BL = jnp.take_along_axis(candidates_BLK, pick_BL1, -1)[..., 0]
    return blend.rewritten(batch, jnp.where(chosen_BL, drawn_BL, tokens)), memory

  return blend.Part(call, init=init)


def best(scores_QV, own_Q, ordinary_V, k: int):
  """The k ordinary ids i32[Q, k] that score highest, a query's own id aside."""
  scores_QV = jnp.where(ordinary_V[None], scores_QV, -jnp.inf)
  scores_QV = scores_QV.at[jnp.arange(len(own_Q)), own_Q].set(-jnp.inf)
  return jax.lax.top_k(scores_QV, k)[1].astype(jnp.int32)


def nearest(table_VE, ordinary_V, k: int):
  """i32[V, k]: the k ordinary rows nearest to each row by cosine, itself aside."""
  V = len(table_VE)
  unit_VE = losses.unit(table_VE)
  block = min(_BLOCK, V)
  ids_NM = jnp.minimum(jnp.arange(V + -V % block), V - 1).reshape(-1, block)

  def at(ids_M):
    scores_MV = jnp.matmul(unit_VE[ids_M], unit_VE.T, precision='highest')
    return best(scores_MV, ids_M, ordinary_V, k)

  return jax.lax.map(at, ids_NM).reshape(-1, k)[:V]
