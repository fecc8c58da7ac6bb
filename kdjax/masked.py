"""How well a masked language model guesses: every row once, behind the same masks each time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import evaluate, net
from kdjax.data import batches
from kdjax.methods import masking

_ROWS = 1024  # looked at together
_SLACK = 6.0  # sigmas: no token that is drawn goes without a slot


def scorer(
  model: net.Net,
  mask_id: int,
  rho: float,
  batch_size: int,
  buckets,
  mesh,
  seed: int = 0,
  many: bool = False,
) -> Callable:
  """(params, data) -> top1 (share guessed right) and perplexity of the hidden tokens.

  Each ordinary token is hidden by [MASK] with probability rho. The draws follow from the seed and
  the row's number alone: neither the batches nor the mesh change what is asked. many: a list, of
  each of several models of one shape.
  """
  longest = max(buckets)

  def guesses(params, batch):
    """f32[B, 3]: of each row the sum of -log p, tokens guessed right, tokens hidden."""
    tokens = batch['tokens']
    L = tokens.shape[1]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), batch['index'])
    u_BL = jax.vmap(lambda key: jax.random.uniform(key, (longest,)))(keys)[:, :L]
    room = masking.capacity(L, rho, _SLACK)
    slots_BK, hidden_BL, _ = masking.hide(u_BL, batch['maskable'], rho, room)
    shown = batch | dict(tokens=jnp.where(hidden_BL, mask_id, tokens))
    states_BKD = masking.take(model(params, shown).hidden[-1], slots_BK)
    log_p_BKV = jax.nn.log_softmax(model.decode(params, states_BKD))
    gold_BK1 = masking.take(tokens, slots_BK)[..., None]
    nll_BK = -jnp.take_along_axis(log_p_BKV, gold_BK1, -1)[..., 0]
    right_BK = log_p_BKV.argmax(-1) == gold_BK1[..., 0]
    real_BK = slots_BK < L
    return jnp.stack([(x * real_BK).sum(1) for x in (nll_BK, right_BK, jnp.ones_like(nll_BK))], 1)

  def rated(data: batches.Dataset, found_N3: np.ndarray) -> dict[str, float]:
    del data
    nll, right, hidden = found_N3.astype(np.float64).sum(0)
    if not hidden:
      raise ValueError(f'no token of {len(found_N3)} rows was drawn to be hidden: raise rho={rho}')
    return dict(top1=float(right / hidden), perplexity=float(np.exp(nll / hidden)))

  run = evaluate.compiled(guesses, mesh, many)
  return evaluate.each(run, rated, batch_size, buckets, mesh, many)


def check(data: batches.Dataset, split: str) -> None:
  """ValueError, naming the split, where there is nothing to hide."""
  n, L = data.tokens.tokens.shape
  for start in range(0, n, _ROWS):  # the first will do, and the rest may be larger than memory
    rows = slice(start, start + _ROWS)
    real = np.arange(L) < data.tokens.length[rows, None]
    if (data.ordinary[data.tokens.tokens[rows]] & real).any():
      return
  raise ValueError(f'no row of {split} has an ordinary token that could be hidden')
