"""The queue of kdjax.serve: whatever comes together, each caller gets its own answers."""

import threading
from concurrent import futures

import numpy as np
import pytest

from kdjax import batching

LONG = 60.0  # seconds that no test takes


class Model:
  """Answers item -> (item,); stands still until it is let go, and fails on 'bad'."""

  def __init__(self, free: bool = True):
    self.free, self.began, self.batches = threading.Event(), threading.Semaphore(0), []
    if free:
      self.free.set()

  def __call__(self, items):
    self.batches.append(list(items))
    self.began.release()
    assert self.free.wait(LONG)
    if 'bad' in items:
      raise ArithmeticError('bad')
    return [(item,) for item in items]


def _queue(model, batch_size=4, wait=0.0, limit=1000):
  return batching.Batcher(model, batch_size, wait, limit)


def _busy(model, queue):
  """The first request, which the model is now standing still on."""
  first = queue.submit(['first'])
  assert model.began.acquire(timeout=LONG)
  return first


def test_no_answer_is_lost_or_mixed_up_whoever_comes_and_goes(rng):
  model = Model()
  queue = _queue(model, batch_size=7, wait=0.001)
  seeds = rng.integers(2**32, size=8)

  def caller(n):
    own, out = np.random.default_rng(seeds[n]), []
    for k in range(100):
      items = [(n, k, i) for i in range(own.integers(1, 20))]
      future = queue.submit(items)
      left = own.random() < 0.3 and future.cancel()
      out.append((items, future, left))
      if not left and own.random() < 0.5:
        futures.wait([future], LONG)
    return out

  with futures.ThreadPoolExecutor(8) as pool:
    asked = [one for found in pool.map(caller, range(8)) for one in found]
  for items, future, left in asked:
    if left:
      assert future.cancelled()
    else:
      assert future.result(LONG) == [(item,) for item in items]
  assert queue.close(LONG) and not queue.waiting
  done = [item for batch in model.batches for item in batch]
  assert len(set(done)) == len(done) == sum(n * size for size, n in queue.sizes.items())
  assert max(map(len, model.batches)) <= 7
  assert len(asked) == 800 and 0 < sum(left for *_, left in asked) < 800


def test_a_full_batch_does_not_wait_and_a_part_of_one_waits_for_others():
  model = Model()
  queue = _queue(model, wait=LONG)
  asked = [queue.submit([n]) for n in range(3)]
  assert not any(future.done() for future in asked)
  asked.append(queue.submit([3]))
  assert [future.result(LONG / 2) for future in asked] == [[(n,)] for n in range(4)]
  assert model.batches == [[0, 1, 2, 3]] and queue.sizes == {4: 1}
  late = queue.submit([4])
  assert queue.close(LONG / 2)  # nobody more will come
  assert late.result(0) == [(4,)]


def test_one_alone_is_answered_when_it_has_waited():
  assert _queue(Model(), wait=0.01).submit(['a']).result(LONG) == [('a',)]


def test_a_request_larger_than_a_batch_is_answered_in_order():
  model = Model()
  assert _queue(model).submit(range(10)).result(LONG) == [(n,) for n in range(10)]
  assert [len(batch) for batch in model.batches] == [4, 4, 2]


def test_no_more_wait_than_may_and_who_leaves_makes_room():
  model = Model(free=False)
  queue = _queue(model, limit=5)
  first = _busy(model, queue)
  asked = [queue.submit(['a', 'b']), queue.submit(['c', 'd'])]
  with pytest.raises(batching.Full, match='4 texts wait of 5'):
    queue.submit(['e', 'f'])
  asked.append(queue.submit(['e']))
  with pytest.raises(batching.Full):
    queue.submit(['g'])
  assert queue.waiting == 5
  assert asked[0].cancel()
  asked[0] = queue.submit(['g', 'h'])
  model.free.set()
  found = [future.result(LONG) for future in (first, *asked)]
  assert found == [[('first',)], [('g',), ('h',)], [('c',), ('d',)], [('e',)]]
  assert not any('a' in batch for batch in model.batches)


def test_who_sent_what_the_model_fails_on_fails_alone():
  model = Model(free=False)
  queue = _queue(model, batch_size=8)
  first = _busy(model, queue)
  good, bad, more = (queue.submit(items) for items in (['a', 'b'], ['c', 'bad'], ['d']))
  model.free.set()
  assert good.result(LONG) == [('a',), ('b',)] and more.result(LONG) == [('d',)]
  with pytest.raises(ArithmeticError):
    bad.result(LONG)
  assert first.result(LONG) and queue.submit(['e']).result(LONG) == [('e',)]


def test_the_rest_of_a_request_that_failed_is_not_computed():
  model = Model(free=False)
  queue = _queue(model, batch_size=2)
  _busy(model, queue)
  bad = queue.submit(['bad', 'x', 'y', 'z'])
  good = queue.submit(['a'])
  model.free.set()
  assert good.result(LONG) == [('a',)]
  with pytest.raises(ArithmeticError):
    bad.result(LONG)
  assert model.batches == [['first'], ['bad', 'x'], ['a']]


def test_a_model_that_answers_too_little_is_an_error():
  with pytest.raises(ValueError, match='shorter'):
    _queue(lambda items: items[1:]).submit(['a', 'b']).result(LONG)


def test_a_closed_queue_takes_nothing_and_gives_up_on_a_model_that_stands_still():
  model = Model(free=False)
  queue = _queue(model)
  first = _busy(model, queue)
  late = queue.submit(['a'])
  assert not queue.close(0.01)
  assert late.cancelled() and not first.done()
  with pytest.raises(RuntimeError, match='closed'):
    queue.submit(['b'])
  model.free.set()
  assert first.result(LONG) == [('first',)] and queue.close(LONG)
