import itertools

import numpy as np
import pytest

from kdjax.data import batches, lengths, tokens


def _cost(length, shapes, size, played):
  """Of all steps of a run by these lengths, written out once more."""
  batched, out = 0, len(shapes) * lengths._PRICE
  for L in shapes:
    here = (length <= L).sum()
    whole = here if here == len(length) else here // size * size
    out += played * L * (whole - batched) / len(length)
    batched = whole
  return out


@pytest.mark.parametrize('top', [4, 21, 32])
@pytest.mark.parametrize('epochs', [1, 300, 30_000])
def test_no_other_lengths_cost_less(rng, top, epochs):
  for n, size in ((1, 1), (3, 4), (64, 8), (61, 8)):
    length = rng.integers(1, top + 1, n)
    got = lengths.choose(length, top, size, epochs * n)
    grid = [*range(4, top, 4), top]
    some = itertools.chain.from_iterable(
      itertools.combinations(grid, k) for k in range(1, len(grid) + 1)
    )
    costs = {s: _cost(length, s, size, epochs * n) for s in some if s[-1] >= length.max()}
    assert costs[got] == pytest.approx(min(costs.values()), rel=1e-12)


def test_a_length_is_a_multiple_of_4_or_the_longest_there_can_be(rng):
  for top in (20, 64, 77):
    got = lengths.choose(rng.integers(1, top + 1, 200), top, 8, 10**8)
    assert set(got) <= {*range(4, top, 4), top} and list(got) == sorted(got)


def test_few_steps_have_few_lengths_and_none_is_for_no_row(rng):
  length = rng.integers(1, 100, 500)
  length[0] = 99
  counts = [len(lengths.choose(length, 128, 8, played)) for played in (1, 10**4, 10**5, 10**7)]
  assert counts == sorted(counts) and counts[0] == 1 and counts[-1] > 4
  assert lengths.choose(length, 128, 8, 1) == (100,)
  assert lengths.choose(np.full(30, 99), 99, 8, 10**9) == (99,)
  assert lengths.choose(np.repeat([5, 60], 32), 128, 8, 10**9) == (8, 60)


def _data(rng, length, teacher=None, group=1, top=80):
  def view(length):
    ids = np.zeros((len(length), top), np.int32)
    return tokens.Tokens(ids, ids, length.astype(np.int32))

  n = len(length)
  other = None if teacher is None else view(teacher)
  return batches.Dataset(
    view(length), np.zeros(n, np.int32), np.arange(n, dtype=np.int32), None, other, group
  )


def _epoch(data, size, shapes, epoch=0):
  steps = len(data.index) // size
  seed = 3
  plan = batches.train_plan(data, size, shapes, seed, epoch * steps)
  return list(itertools.islice(plan, steps))


@pytest.mark.parametrize('own', [False, True])
@pytest.mark.parametrize('group', [1, 4])
def test_an_epoch_has_the_places_that_were_counted(rng, own, group):
  length = rng.integers(1, 81, 320)
  data = _data(rng, length, rng.integers(1, 81, 320) if own else None, group)
  each = batches.row_lengths(data)
  longer = np.maximum(length, data.teacher.length) if own else length
  np.testing.assert_array_equal(each, np.repeat(longer.reshape(-1, group).max(1), group))
  for played in (320, 10**5, 10**8):
    shapes = lengths.choose(each, 80, 16, played)
    for epoch in range(2):
      plan = _epoch(data, 16, shapes, epoch)
      assert sum(L * len(rows) for L, rows in plan) == lengths.places(each, shapes, 16)
      assert {L for L, _ in plan} == set(shapes)
      assert sorted(np.concatenate([rows for _, rows in plan])) == list(range(320))
      assert all(longer[rows].max() <= L for L, rows in plan)


def test_rows_that_are_left_out_bring_no_other_length(rng):
  data = _data(rng, rng.integers(1, 50, 333))
  shapes = lengths.choose(batches.row_lengths(data), 80, 16, 10**7)
  for epoch in range(5):
    assert {L for L, _ in _epoch(data, 16, shapes, epoch)} <= set(shapes)


def test_given_lengths_end_at_max_length():
  assert lengths.settled((32, 16), 64) == (16, 32, 64)
  assert lengths.settled((16, 64, 128), 64) == (16, 64)
  assert lengths.settled((), 64) == (64,)
  assert lengths.settled(('auto',), 64) == lengths.AUTO


@pytest.mark.parametrize('wrong', [(0, 8), (-8,), (1.5,), ('often',), ('auto', 8), ((8, 16),)])
def test_what_is_no_length_is_an_error_that_names_the_key(wrong):
  with pytest.raises(ValueError, match=r"^config.data.buckets is .*: it must be 'auto', or .*$"):
    lengths.settled(wrong, 64)
