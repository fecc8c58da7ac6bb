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
from kdjax.methods import banks, base, blend, layers

Array = jax.Array

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

  if env.partly:
    raise ValueError(
      'codir finds negatives by their labels, and rows of config.data.unlabelled and new_pairs '
      'have none: leave them empty, or take a term that needs no labels (cilda, pkd, rail_kd)'
    )

  def choose(name, blocks):
    field = f'{name}_layers'
    return layers.choose(c[field], blocks, field=field)

  def init(key, params, data):
    with jax.ensure_compile_time_eval():  # labels are known where only shapes are asked for
      index, order, low, high = banks.shelve(data.index, data.label, c.margin)
    k_heads, k_banks = jax.random.split(key)
    heads, stored = {}, {}
    for n, name in enumerate(MODELS):
      blocks, width = layers.sizes(getattr(env, name), params[name])
      ins = len(choose(name, blocks)) * width
      heads[name] = layers.head(jax.random.fold_in(k_heads, n), ins, c.dims)
      stored[name] = dict(bank=banks.bank(jax.random.fold_in(k_banks, n), len(index), c.dims))
    shelf = dict(index=index, order=order, low=low, high=high)
    log_z = jnp.full(2, jnp.nan, jnp.float32)
    memory = stored | dict(shelf=shelf, log_z=log_z)
    if c.per == 'batch':  # of which a call may have a part
      memory['rows'] = jnp.full((), data.batch_size, jnp.int32)
    return dict(codir_heads=heads), memory

  def call(params, memory, batch, student, teacher, key):
    v = {}
    for name, out in zip(MODELS, (student, teacher), strict=True):
      chosen = choose(name, out.hidden.shape[0] - 1)
      x = layers.pooled(getattr(env, name), batch, out.hidden, chosen, c.pool)
      v[name] = losses.unit(layers.project(params['codir_heads'][name], x))

    shelf = memory['shelf']
    row_B = jnp.searchsorted(shelf['index'], batch['index'])
    n = shelf['index'].shape[0]
    places_BK = banks.draw(key, shelf['low'][row_B], shelf['high'][row_B], n, c.negatives)
    rows_BK1 = jnp.concatenate([row_B[:, None], shelf['order'][places_BK]], 1)
    stored = {name: memory[name]['bank'] for name in MODELS}
    log_z = memory['log_z']
    if c.contrast == 'nce':
      loss_B, log_z = nce(v, stored, log_z, rows_BK1, n, c.tau)
    else:
      loss_B = info(v, stored, rows_BK1, c.tau)
    # Read above, written here: no example meets what it has just left.
    after = {
      name: dict(bank=banks.update(old_ME, row_B, v[name], c.momentum))
      for name, old_ME in stored.items()
    }
    scale = c.weight / (memory['rows'] if c.per == 'batch' else 1)
    metrics = closeness(*jax.lax.stop_gradient((v, stored)), rows_BK1)
    return (
      scale * loss_B.mean(),
      memory | after | dict(log_z=log_z),
      metrics | dict(contrast=loss_B.mean()),
    )

  return blend.Part(call, ('codir_heads',), init, pool=c.pool)


def nce(v, stored, log_z: Array, rows_BK1: Array, n: int, tau: float) -> tuple[Array, Array]:
  """As released, after CRD: (loss f32[B], log_z f32[2]), mean over both directions.

  The positive is a stored row too, of the last time that the example was seen: noise, for all of
  the first epoch. Z, one per direction, is n times the mean of exp(score) over the first batch, and
  a constant from then on: log_z is NaN until it is set.
  """
  found = [banks.scores(v[a], stored[b], rows_BK1, tau) for a, b in CROSSED]
  first = jnp.stack([jnp.log(n / s.size) + jax.nn.logsumexp(s) for s in found])
  log_z = jnp.where(jnp.isnan(log_z), jax.lax.stop_gradient(first), log_z)
  return sum(losses.bank_nce(s - z, n) for s, z in zip(found, log_z, strict=True)) / 2, log_z


def info(v, stored, rows_BK1: Array, tau: float) -> Array:
  """The paper's InfoNCE, f32[B], mean over both directions; positives are stored rows here too.

  The other model's present vector as positive is told from stored rows by being present. Of 256
  texts of SST-2, eight epochs taught nothing else: all were ahead of the bank, and met at chance
  among present vectors.
  """
  own_B, others_BK = rows_BK1[:, 0], rows_BK1[:, 1:]
  both = (losses.info_nce(v[a], stored[b][own_B], stored[b][others_BK], tau) for a, b in CROSSED)
  return sum(both) / 2


def closeness(v, stored, rows_BK1: Array) -> base.Metrics:
  """Mean product with positives and negatives; `ahead`: share whose positive beats all of those."""
  found_BK1 = jnp.concatenate([banks.scores(v[a], stored[b], rows_BK1, 1.0) for a, b in CROSSED])
  return dict(
    positive=found_BK1[:, 0].mean(),
    negative=found_BK1[:, 1:].mean(),
    ahead=(found_BK1[:, 0] > found_BK1[:, 1:].max(1)).mean(dtype=jnp.float32),
  )
