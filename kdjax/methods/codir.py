"""CoDIR, Sun et al. (2020), arXiv:2009.14167: know your own teacher among a bank of others.

Chosen layers of a model make one vector; beside KD, a contrastive loss draws the student's towards
the teacher's of the same example, away from those of examples with other labels, which a bank of
all training rows keeps. The released code is github.com/intersun/CoDIR. It differs from the paper:
'nce' with 'first' is what was released, 'info' with 'mean' what the paper says. Ours: examples are
weighted alike whatever the batch, regression has negatives too, and the teacher has no dropout.
"""

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.methods import base, blend, layers

Array = jax.Array

LANES = 128  # banks have a multiple of this many rows, so that they split over devices
MODELS = ('student', 'teacher')
CROSSED = (MODELS, MODELS[::-1])  # anchor, and whose bank it meets: the other model's


def make(c, env) -> base.Method:
  """KD with the contrast of hidden states on the text; fields in configs/codir.py."""
  return blend.distil(c, env, term=term(c, env), teacher_dropout=c.teacher_dropout)


def term(c, env) -> blend.Part:
  """weight * contrast, with two heads that the student's player trains."""
  base.one_of(c, contrast=('nce', 'info'), per=('example', 'batch'), pool=layers.POOLS)
  base.positive(c, 'negatives', 'tau', 'dims')
  base.share(c, 'momentum')
  if not c.margin >= 0:
    raise ValueError(f'config.method.margin={c.margin} must be 0 or more')

  def choose(name, blocks):
    field = f'{name}_layers'
    return layers.choose(c[field], blocks, field=field)

  def init(key, params, data):
    index, order, low, high = shelve(data.index, data.label, c.margin)
    k_heads, k_banks = jax.random.split(key)
    heads, banks = {}, {}
    for n, name in enumerate(MODELS):
      blocks, width = layers.sizes(getattr(env, name), params[name])
      ins = len(choose(name, blocks)) * width
      heads[name] = layers.head(jax.random.fold_in(k_heads, n), ins, c.dims)
      banks[name] = dict(bank=bank(jax.random.fold_in(k_banks, n), len(index), c.dims))
    shelf = dict(index=index, order=order, low=low, high=high)
    log_z = jnp.full(2, jnp.nan, jnp.float32)
    return dict(codir_heads=heads), banks | dict(shelf=shelf, log_z=log_z)

  def call(params, memory, batch, student, teacher, key):
    v = {}
    for name, out in zip(MODELS, (student, teacher), strict=True):
      chosen = choose(name, out.hidden.shape[0] - 1)
      x = layers.pooled(getattr(env, name), batch, out.hidden, chosen, c.pool)
      v[name] = losses.unit(layers.project(params['codir_heads'][name], x))

    shelf = memory['shelf']
    row_B = jnp.searchsorted(shelf['index'], batch['index'])
    n = shelf['index'].shape[0]
    places_BK = draw(key, shelf['low'][row_B], shelf['high'][row_B], n, c.negatives)
    rows_BK1 = jnp.concatenate([row_B[:, None], shelf['order'][places_BK]], 1)
    banks = {name: memory[name]['bank'] for name in MODELS}
    log_z = memory['log_z']
    if c.contrast == 'nce':
      loss_B, log_z = nce(v, banks, log_z, rows_BK1, n, c.tau)
    else:
      loss_B = info(v, banks, rows_BK1, c.tau)
    # Read above, written here: no example meets what it has just left.
    after = {name: dict(bank=update(banks[name], row_B, v[name], c.momentum)) for name in MODELS}
    scale = c.weight / (loss_B.shape[0] if c.per == 'batch' else 1)
    metrics = dict(contrast=loss_B.mean()) | closeness(*jax.lax.stop_gradient((v, banks)), rows_BK1)
    return scale * loss_B.mean(), memory | after | dict(log_z=log_z), metrics

  return blend.Part(call, ('codir_heads',), init)


def shelve(index, label, margin: float) -> tuple[Array, Array, Array, Array]:
  """Training rows by label, so that those an example may not have as negatives lie together.

  A bank row is a place among the sorted indices. Equal labels exclude each other: classes, sets of
  labels, and scores no further apart than margin standard deviations.

  Args:
    index: i32[n]. label: i32[n], f32[n] or f32[n, C].

  Returns:
    index i32[n], sorted; order i32[n], bank rows in order of label; low, high i32[n], by bank row:
    order[low:high] are not its negatives, itself among them.
  """
  by = jnp.argsort(jnp.asarray(index))
  index, label = jnp.asarray(index)[by], jnp.asarray(label)[by]
  if (index[1:] == index[:-1]).any():
    twice = index[1:][index[1:] == index[:-1]][0]
    raise ValueError(f'codir: two training rows have the index {twice}, and so one row of the bank')
  scores = jnp.issubdtype(label.dtype, jnp.floating)
  missing = jnp.isnan(label) if scores else label < 0
  if missing.any():
    raise ValueError(f'codir: {int(missing.sum())} training labels are missing (NaN or below 0)')
  if label.ndim == 2:
    label = jnp.unique(label, axis=0, return_inverse=True)[1].reshape(-1)
    scores = False
  apart = margin * label.std() if scores else 0
  order = jnp.argsort(label)
  low = jnp.searchsorted(label[order], label - apart, side='left')
  high = jnp.searchsorted(label[order], label + apart, side='right')
  alone = high - low == len(index)
  if alone.any():
    raise ValueError(
      f'codir: training row {index[alone][0]} has no negative: '
      + (f'no score is config.method.margin={margin} deviations away' if scores else 'one label')
    )
  return tuple(x.astype(jnp.int32) for x in (index, order, low, high))


def bank(key, n: int, dims: int) -> Array:
  """f32[M, E] at step 0, of expected square 1 as released; rows from n on are never drawn."""
  r = (3 / dims) ** 0.5
  return jax.random.uniform(key, (-(-n // LANES) * LANES, dims), jnp.float32, -r, r)


def draw(key, low_B: Array, high_B: Array, n: int, K: int) -> Array:
  """i32[B, K], places among n outside low to high, uniform.

  Without replacement, unless fewer than K are left. (As released, one class with K or fewer rows
  outside it makes every example draw with replacement.)
  """
  left_B1 = (n - (high_B - low_B))[:, None]
  enough_B1 = left_B1 >= K
  # Floyd's algorithm: the k-th is one of the first left - K + k, or the next where that is taken.
  last_BK = jnp.where(enough_B1, left_B1 - K + jnp.arange(K)[None], left_B1 - 1)
  tried_BK = jax.random.randint(key, last_BK.shape, 0, last_BK + 1)

  def choose(k, taken_BK):
    tried_B1 = jax.lax.dynamic_slice_in_dim(tried_BK, k, 1, 1)
    last_B1 = jax.lax.dynamic_slice_in_dim(last_BK, k, 1, 1)
    again_B1 = enough_B1 & (taken_BK == tried_B1).any(1, keepdims=True)
    new_B1 = jnp.where(again_B1, last_B1, tried_B1)
    return jax.lax.dynamic_update_slice_in_dim(taken_BK, new_B1, k, 1)

  taken_BK = jax.lax.fori_loop(0, K, choose, jnp.full_like(tried_BK, -1))
  return jnp.where(taken_BK < low_B[:, None], taken_BK, taken_BK + (high_B - low_B)[:, None])


def scores(anchor_BE: Array, bank_ME: Array, rows_BK1: Array, tau: float) -> Array:
  """f32[B, 1 + K], inner products with rows of a bank over tau; column 0 is the positive."""
  # tau is small: what fewer bits leave behind is multiplied by 1 / tau.
  return jnp.einsum('be,bke->bk', anchor_BE, bank_ME[rows_BK1], precision='highest') / tau


def nce(v, banks, log_z: Array, rows_BK1: Array, n: int, tau: float) -> tuple[Array, Array]:
  """As released, after CRD: (loss f32[B], log_z f32[2]), mean over both directions.

  The positive is a stored row too, of the last time that the example was seen: noise, for all of
  the first epoch. Z, one per direction, is n times the mean of exp(score) over the first batch, and
  a constant from then on: log_z is NaN until it is set.
  """
  found = [scores(v[a], banks[b], rows_BK1, tau) for a, b in CROSSED]
  first = jnp.stack([jnp.log(n / s.size) + jax.nn.logsumexp(s) for s in found])
  log_z = jnp.where(jnp.isnan(log_z), jax.lax.stop_gradient(first), log_z)
  return sum(losses.bank_nce(s - z, n) for s, z in zip(found, log_z, strict=True)) / 2, log_z


def info(v, banks, rows_BK1: Array, tau: float) -> Array:
  """The paper's InfoNCE, f32[B], mean over both directions; positives are stored rows here too.

  The other model's present vector as positive is told from stored rows by being present. Of 256
  texts of SST-2, eight epochs taught nothing else: all were ahead of the bank, and met at chance
  among present vectors.
  """
  own_B, others_BK = rows_BK1[:, 0], rows_BK1[:, 1:]
  both = (losses.info_nce(v[a], banks[b][own_B], banks[b][others_BK], tau) for a, b in CROSSED)
  return sum(both) / 2


def closeness(v, banks, rows_BK1: Array) -> base.Metrics:
  """Mean product with positives and negatives; `ahead`: share whose positive beats all of those."""
  found_BK1 = jnp.concatenate([scores(v[a], banks[b], rows_BK1, 1.0) for a, b in CROSSED])
  return dict(
    positive=found_BK1[:, 0].mean(),
    negative=found_BK1[:, 1:].mean(),
    ahead=(found_BK1[:, 0] > found_BK1[:, 1:].max(1)).mean(dtype=jnp.float32),
  )


def update(bank_ME: Array, row_B: Array, v_BE: Array, momentum: float) -> Array:
  """The bank after a batch: rows move towards the vectors, which carry no gradient into it."""
  old_BE, v_BE = bank_ME[row_B], jax.lax.stop_gradient(v_BE)
  return bank_ME.at[row_B].set(losses.unit(momentum * old_BE + (1 - momentum) * v_BE))
