"""Whole data sets through a model: order, padding, devices."""

import numpy as np
import pytest

from kdjax import env, evaluate, metrics, sharding, tasks
from kdjax.data import batches, tokens
from tests import tiny


def _data(rng, n: int) -> batches.Dataset:
  length = rng.integers(3, tiny.LENGTH + 1, n).astype(np.int32)
  mask = np.arange(tiny.LENGTH)[None] < length[:, None]
  ids = np.where(mask, rng.integers(tiny.SPECIAL, tiny.VOCAB, mask.shape), 0).astype(np.int32)
  return batches.Dataset(
    tokens.Tokens(ids, np.zeros_like(ids), length),
    rng.integers(0, 3, n).astype(np.int32),
    rng.permutation(n).astype(np.int32) + 100,  # the source's row numbers, in no order
    np.arange(tiny.VOCAB) >= tiny.SPECIAL,
  )


@pytest.fixture(scope='module')
def forward():
  world, params = tiny.world()
  mesh = sharding.make_mesh(4)
  return evaluate.forward(world.teacher, mesh), params['teacher'], mesh


@pytest.mark.parametrize('n', [1, 8, 21])
def test_every_row_gets_its_own_logits_whatever_the_batches(rng, forward, n):
  run, params, mesh = forward
  data = _data(rng, n)
  got = evaluate.logits(run, params, data, 8, (6, tiny.LENGTH), mesh)
  # One batch, one length, in the data's order: nothing to get wrong.
  mask = np.arange(tiny.LENGTH)[None] < data.tokens.length[:, None]
  rows = np.resize(np.arange(n), 24)
  batch = dict(
    tokens=data.tokens.tokens[rows], segments=data.tokens.segments[rows], mask=mask[rows]
  )
  want = np.asarray(run(params, sharding.put(batch, mesh)))[:n]
  assert got.shape == (n, 3)
  np.testing.assert_allclose(got, want, atol=1e-5)
  score = evaluate.scorer(
    tiny.world()[0].teacher, tasks.KINDS['classes'], ('accuracy',), 8, (tiny.LENGTH,), mesh
  )
  right = (want.argmax(1) == data.label).mean()
  assert score(params, data)['accuracy'] == pytest.approx(right)
  assert metrics.compute(('accuracy',), want.argmax(1), data.label)['accuracy'] == right


def test_a_row_that_is_scored_twice_is_an_error(rng, forward):
  run, params, mesh = forward
  data = _data(rng, 16)
  twice = data._replace(index=np.where(np.arange(16) == 3, data.index[4], data.index))
  again = evaluate.logits(run, params, data, 8, (tiny.LENGTH,), mesh)
  assert again.shape == (16, 3)
  with pytest.raises(AssertionError, match='names a row twice'):
    evaluate.logits(run, params, twice, 8, (tiny.LENGTH,), mesh)


def test_speeds_are_medians_of_calls_in_turn():
  order = []
  runs = {name: (lambda name=name: order.append(name)) for name in 'ab'}
  out = evaluate.speed(runs, 100, rounds=2)
  assert order == ['a', 'b', 'a', 'b', 'a', 'b']  # the first of each is not timed
  assert set(out) == {'a', 'b'} and all(v > 0 for v in out.values())


def test_rows_with_labels_are_told_from_rows_without():
  data = lambda *label: batches.Dataset(None, np.array(label), None, None)  # noqa: E731
  assert env.labelled(data(0, 1)) and not env.labelled(data(0, -1))
  assert env.labelled(data(0.5, 2.0)) and not env.labelled(data(0.5, np.nan))
