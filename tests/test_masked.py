"""Scores of a masked language model: exact, the same masks each time, every row once."""

import jax
import numpy as np
import pytest

from kdjax import masked, sharding
from tests import test_evaluate, tiny


@pytest.fixture(scope='module')
def model():
  world, params = tiny.world()
  return world.generator, params['generator']


def _scorer(net, devices=1, batch_size=8, buckets=(6, tiny.LENGTH), rho=0.4, seed=0):
  mesh = sharding.make_mesh(devices)
  return masked.scorer(net, tiny.MASK, rho, batch_size, buckets, mesh, seed)


def test_scores_are_those_of_a_loop_over_rows(rng, model):
  net, params = model
  data = test_evaluate._data(rng, 21)
  nll, right = [], []
  forward = jax.jit(net)
  for tokens, length, index in zip(data.tokens.tokens, data.tokens.length, data.index, strict=True):
    mask = np.arange(tiny.LENGTH) < length
    u = jax.random.uniform(jax.random.fold_in(jax.random.key(0), int(index)), (tiny.LENGTH,))
    hidden = mask & data.ordinary[tokens] & (np.asarray(u) < 0.4)
    shown = np.where(hidden, tiny.MASK, tokens)
    batch = dict(tokens=shown[None], segments=0 * shown[None], mask=mask[None])
    logits = np.asarray(forward(params, batch).logits[0], np.float64)[hidden]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    nll += list(-log_p[np.arange(hidden.sum()), tokens[hidden]])
    right += list(logits.argmax(1) == tokens[hidden])
  got = _scorer(net)(params, data)
  assert list(got) == ['top1', 'perplexity']  # the first selects the best checkpoint
  np.testing.assert_allclose(got['perplexity'], np.exp(np.mean(nll)), rtol=1e-5)
  np.testing.assert_allclose(got['top1'], np.mean(right), rtol=1e-6)


def test_neither_batches_nor_devices_change_what_is_asked(rng, model):
  net, params = model
  data = test_evaluate._data(rng, 21)
  first = _scorer(net)(params, data)
  for score in (
    _scorer(net),
    _scorer(net, batch_size=12, buckets=(tiny.LENGTH,)),
    _scorer(net, devices=4),
  ):
    assert score(params, data) == pytest.approx(first, rel=1e-5)
  assert _scorer(net, seed=1)(params, data)['perplexity'] != first['perplexity']


def test_nothing_to_hide_is_said(rng, model):
  net, params = model
  data = test_evaluate._data(rng, 8)
  masked.check(data, 'validation')
  bare = data._replace(ordinary=np.zeros_like(data.ordinary))
  with pytest.raises(ValueError, match='no row of validation has an ordinary token'):
    masked.check(bare, 'validation')
  with pytest.raises(ValueError, match='no token of 8 rows was drawn'):
    _scorer(net)(params, bare)
