import itertools
import tracemalloc

import numpy as np
import pytest

from kdjax.data import batches, tokens

_V, _L = 30, 20


def _tokens(rng, n, length=None):
  length = rng.integers(2, _L + 1, n) if length is None else length
  ids = np.where(np.arange(_L) < length[:, None], rng.integers(1, _V, (n, _L)), 0)
  segments = np.where(ids > 0, rng.integers(0, 2, (n, _L)), 0)
  return tokens.Tokens(*(a.astype(np.int32) for a in (ids, segments, length)))


def _data(rng, n, teacher=False, label=None):
  return batches.Dataset(
    tokens=_tokens(rng, n),
    label=rng.integers(0, 3, n).astype(np.int32) if label is None else label,
    index=(np.arange(n) + 1000).astype(np.int32),
    ordinary=np.arange(_V) >= 5,
    teacher=_tokens(rng, n) if teacher else None,
  )


def _same(a, b):
  assert a.keys() == b.keys()
  for key in a:
    assert a[key].dtype == b[key].dtype
    np.testing.assert_array_equal(a[key], b[key])


def _epoch(data, size, buckets, seed, epoch=0):
  steps = batches.steps_per_epoch(len(data.index), size)
  stream = batches.train_batches(data, size, buckets, seed, epoch * steps)
  return list(itertools.islice(stream, steps))


_SIZES = [(1, 1), (7, 7), (8, 3), (40, 8), (41, 8), (47, 8), (50, 1), (23, 16)]


@pytest.mark.parametrize('n, size', _SIZES)
def test_an_epoch_is_whole_batches_and_has_no_row_twice(rng, n, size):
  data = _data(rng, n)
  got = _epoch(data, size, (6, 12), int(rng.integers(99)))
  assert len(got) == n // size
  seen = np.concatenate([batch['index'] for batch in got])
  assert len(seen) == len(set(seen)) == n // size * size


@pytest.mark.parametrize('n, size', _SIZES)
@pytest.mark.parametrize('teacher', [False, True])
def test_every_row_is_scored_exactly_once(rng, n, size, teacher):
  data = _data(rng, n, teacher)
  got = list(batches.eval_batches(data, size, (6, 12)))
  assert sorted(i for batch, real in got for i in batch['index'][:real]) == list(data.index)
  assert [real for _, real in got[:-1]] == [size] * (len(got) - 1)
  assert all(len(batch['index']) == size for batch, _ in got)
  batch, real = got[-1]
  assert (batch['index'][real:] == batch['index'][0]).all()


def test_a_batch_holds_its_rows_and_their_shapes(rng):
  data = _data(rng, 40)
  for batch in _epoch(data, 8, (6, 12), 0):
    rows = batch['index'] - 1000
    L = batch['tokens'].shape[1]
    assert L in (6, 12, _L)
    assert data.tokens.length[rows].max() <= L
    np.testing.assert_array_equal(batch['tokens'], data.tokens.tokens[rows, :L])
    np.testing.assert_array_equal(batch['segments'], data.tokens.segments[rows, :L])
    np.testing.assert_array_equal(batch['label'], data.label[rows])
    kinds = {key: (value.dtype.name, value.shape) for key, value in batch.items()}
    assert kinds == dict(
      tokens=('int32', (8, L)), segments=('int32', (8, L)), mask=('bool', (8, L)),
      maskable=('bool', (8, L)), label=('int32', (8,)), index=('int32', (8,)),
    )  # fmt: skip


def test_the_mask_is_the_length_and_maskable_spares_special_tokens_and_padding(rng):
  data = _data(rng, 30)
  data.ordinary[0] = True  # even where padding looks ordinary
  for batch in _epoch(data, 5, (6, 12), 0):
    rows = batch['index'] - 1000
    np.testing.assert_array_equal(batch['mask'].sum(1), data.tokens.length[rows])
    assert (np.diff(batch['mask'].astype(int), axis=1) <= 0).all()
    want = batch['mask'] & ((batch['tokens'] >= 5) | (batch['tokens'] == 0))
    np.testing.assert_array_equal(batch['maskable'], want)
    assert not batch['maskable'][~batch['mask']].any()


def test_the_teachers_view_is_of_the_same_rows_and_length(rng):
  data = _data(rng, 30, teacher=True)
  for batch in _epoch(data, 5, (6, 12), 0):
    rows, L = batch['index'] - 1000, batch['tokens'].shape[1]
    np.testing.assert_array_equal(batch['teacher_tokens'], data.teacher.tokens[rows, :L])
    np.testing.assert_array_equal(batch['teacher_segments'], data.teacher.segments[rows, :L])
    np.testing.assert_array_equal(batch['teacher_mask'].sum(1), data.teacher.length[rows])
    np.testing.assert_array_equal(batch['mask'].sum(1), data.tokens.length[rows])


@pytest.mark.parametrize('n, size', [(8, 3), (41, 8), (16, 16)])
def test_a_stream_begun_late_is_the_rest_of_the_whole_stream(rng, n, size):
  data = _data(rng, n, teacher=True)
  seed = int(rng.integers(99))
  whole = list(itertools.islice(batches.train_batches(data, size, (6, 12), seed), 13))
  for start in (0, 1, 4, 5, 12):
    late = batches.train_batches(data, size, (6, 12), seed, start)
    for batch in whole[start:]:
      _same(batch, next(late))


def test_epochs_and_seeds_differ(rng):
  data = _data(rng, 40)
  orders = [
    tuple(i for batch in _epoch(data, 8, (6, 12), seed, epoch) for i in batch['index'])
    for seed in (0, 1)
    for epoch in (0, 1)
  ]
  assert len(set(orders)) == 4


def test_rare_long_rows_are_not_always_the_ones_left_out(rng):
  # 3 long rows among 35, batches of 16: 3 rows are left out of each epoch.
  length = np.full(35, 4)
  length[:3] = _L
  data = _data(rng, 35)._replace(tokens=_tokens(rng, 35, length))
  seen = {i for epoch in range(5) for b in _epoch(data, 16, (6,), 0, epoch) for i in b['index']}
  assert {1000, 1001, 1002} <= seen


def test_short_rows_get_short_batches_and_lengths_come_mixed(rng):
  length = np.repeat([4, 10, 18], 40)
  data = _data(rng, 120)._replace(tokens=_tokens(rng, 120, length))
  shapes = [batch['tokens'].shape[1] for batch in _epoch(data, 8, (6, 12), 0)]
  assert sorted(shapes) == [6] * 5 + [12] * 5 + [_L] * 5
  assert shapes != sorted(shapes)
  scored = [batch['tokens'].shape[1] for batch, _ in batches.eval_batches(data, 8, (6, 12))]
  assert scored == sorted(shapes)


@pytest.mark.parametrize('width', [None, 4])
def test_scores_and_bits_keep_their_type_and_shape(rng, width):
  label = rng.normal(size=(10,) if width is None else (10, width)).astype(np.float32)
  batch = _epoch(_data(rng, 10, label=label), 5, (12,), 0)[0]
  assert batch['label'].dtype == np.float32
  np.testing.assert_array_equal(batch['label'], label[batch['index'] - 1000])


def test_fewer_rows_than_a_batch_is_an_error_at_once_with_both_numbers(rng):
  with pytest.raises(ValueError, match=r'5 training rows .* batch of 8: .*train.batch_size'):
    batches.train_batches(_data(rng, 5), 8, (12,), 0)


def test_arrays_that_do_not_belong_together_are_an_error(rng):
  data = _data(rng, 9)
  with pytest.raises(ValueError, match='tokens have 9 rows'):
    batches.train_batches(data._replace(label=data.label[:8]), 2, (12,), 0)
  short = tokens.Tokens(*(array[:8] for array in data.tokens))
  with pytest.raises(ValueError, match="teacher's tokens are"):
    next(batches.eval_batches(data._replace(teacher=short), 2, (12,)))


def _grouped(rng, n, group, block=0):
  return _data(rng, n)._replace(group=group, block=block)


@pytest.mark.parametrize('n, size, group', [(40, 8, 2), (47, 8, 4), (50, 6, 3), (8, 8, 8)])
def test_neighbours_stay_side_by_side_and_no_row_comes_twice(rng, n, size, group):
  data, seed = _grouped(rng, n, group), int(rng.integers(99))
  for epoch in range(3):
    got = _epoch(data, size, (6, 12), seed, epoch)
    assert len(got) == n // size
    rows = np.concatenate([batch['index'] for batch in got]) - 1000
    assert len(set(rows)) == len(rows) == n // size * size
    beside = rows.reshape(-1, group)
    np.testing.assert_array_equal(beside, beside[:, :1] + np.arange(group))
    for batch in got:
      longest = data.tokens.length[batch['index'] - 1000].max()
      assert longest <= batch['tokens'].shape[1]


def test_groups_are_shuffled_and_rows_that_fill_none_have_their_turn(rng):
  data = _grouped(rng, 43, 4)
  epochs = [
    np.concatenate([b['index'] for b in _epoch(data, 8, (), 0, epoch)]) for epoch in range(40)
  ]
  assert len({tuple(rows) for rows in epochs}) == 40
  assert set(np.concatenate(epochs)) == set(data.index)


def test_a_batch_of_broken_groups_is_an_error_with_the_keys(rng):
  with pytest.raises(ValueError, match=r'train.batch_size=8 .* config.data.neighbours=3 rows'):
    batches.train_batches(_grouped(rng, 40, 3), 8, (), 0)
  with pytest.raises(ValueError, match=r'config.data.neighbours=0'):
    batches.train_batches(_grouped(rng, 40, 0), 8, (), 0)


@pytest.mark.parametrize('group', [1, 2])
@pytest.mark.parametrize('n, block', [(100, 24), (103, 24), (103, 8), (50, 49), (97, 1)])
def test_blocks_cover_an_epoch_and_resume_anywhere(rng, n, group, block):
  data, seed = _grouped(rng, n, group, block), int(rng.integers(99))
  steps, size = n // 8, 8
  stream = batches.train_batches(data, size, (6, 12), seed)
  whole = list(itertools.islice(stream, 3 * steps))
  for epoch in range(3):
    part = whole[epoch * steps : (epoch + 1) * steps]
    rows = np.concatenate([batch['index'] for batch in part])
    assert len(set(rows)) == len(rows) == steps * size
  for start in rng.integers(0, 3 * steps, 4):
    late = batches.train_batches(data, size, (6, 12), seed, int(start))
    _same(whole[start], next(late))


def test_rows_of_a_block_come_together_in_another_order_each_epoch(rng):
  data = _grouped(rng, 96, 1, 24)
  epochs = [
    np.concatenate([b['index'] - 1000 for b in _epoch(data, 8, (), 0, epoch)]) for epoch in (0, 1)
  ]
  for rows in epochs:
    blocks = rows.reshape(4, 24) // 24
    assert (blocks == blocks[:, :1]).all()
    assert (np.diff(rows) != 1).any()
  assert (epochs[0] != epochs[1]).any()


def test_data_of_one_block_has_the_batches_it_had_without(rng):
  data = _data(rng, 41)
  for epoch in (0, 1):
    pairs = zip(
      _epoch(data, 8, (6, 12), 5, epoch),
      _epoch(data._replace(block=41), 8, (6, 12), 5, epoch),
      strict=True,
    )
    for a, b in pairs:
      _same(a, b)


def test_an_epoch_is_as_it_is_written_out_here_once_more(rng):
  """Which rows a seed gives is part of what a run is."""
  data, seed, epoch = _data(rng, 43), int(rng.integers(99)), int(rng.integers(9))
  of_all, own = (np.random.default_rng((first, epoch)) for first in (2**64 - 1, seed))
  rows, plan, rest = own.permutation(of_all.permutation(43)[:40]), [], []
  for low, L in ((0, 6), (6, 12), (12, _L)):
    length = data.tokens.length
    rest += [r for r in rows if low < length[r] <= L]
    while len(rest) >= 8:
      plan.append((L, rest[:8]))
      rest = rest[8:]
  for i, batch in zip(of_all.permutation(5), _epoch(data, 8, (6, 12), seed, epoch), strict=True):
    L, want = plan[i]
    assert batch['tokens'].shape == (8, L)
    np.testing.assert_array_equal(batch['index'] - 1000, want)


@pytest.mark.parametrize('n, group, block', [(43, 1, 0), (103, 1, 24), (103, 4, 24), (50, 2, 49)])
def test_all_seeds_have_one_sequence_of_lengths_and_rows_of_their_own(rng, n, group, block):
  data, seeds = _grouped(rng, n, group, block), (0, 1, int(rng.integers(2, 2**32)))
  steps = 3 * (n // 8)
  streams = [batches.train_batches(data, 8, (6, 12), seed) for seed in seeds]
  taken = [list(itertools.islice(stream, steps)) for stream in streams]
  shapes = [[batch['tokens'].shape for batch in own] for own in taken]
  assert shapes[0] == shapes[1] == shapes[2]
  rows = [np.stack([batch['index'] for batch in own]) for own in taken]
  assert len({own.tobytes() for own in rows}) == 3
  epochs = [own.reshape(3, -1) for own in rows]
  for one, two, three in zip(*epochs, strict=True):  # the rows left out are those of the epoch
    assert set(one) == set(two) == set(three)
  assert len({frozenset(epoch) for epoch in epochs[0]}) > 1


def test_a_digest_holds_no_whole_array(rng):
  data = _data(rng, 10)
  large = np.broadcast_to(np.int32(0), (60_000, 512))  # of images: 123 MB where it is written out
  data = data._replace(
    tokens=tokens.Tokens(large, large, np.zeros(60_000, np.int32)),
    label=np.zeros(60_000, np.int32),
    index=np.arange(60_000, dtype=np.int32),
  )
  tracemalloc.start()
  found = batches.digest(data)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 20e6
  whole = data._replace(tokens=data.tokens._replace(segments=np.zeros_like(large)))
  assert batches.digest(whole) == found
  other = whole.tokens.segments.copy()
  other[rng.integers(60_000), rng.integers(512)] = 1
  assert batches.digest(data._replace(tokens=data.tokens._replace(segments=other))) != found
