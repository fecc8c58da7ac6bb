"""Texts of many callers, answered by few calls of a model: no HTTP here, and no model.

One thread calls the model. It takes the texts that came first, as soon as there are enough for a
batch or the oldest has waited long enough; what comes while it computes is its next batch.
"""

import collections
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any


class Full(Exception):
  """As many texts wait as may."""


class _Request:
  """Texts that came together, and the answers that have been found."""

  def __init__(self, items: Sequence[Any]):
    self.items, self.answers = items, [None] * len(items)
    self.left, self.came = len(items), time.monotonic()
    self.future = futures.Future()

  def put(self, place: int, answer: Any) -> None:
    """One answer; with the last one, all are handed over."""
    self.answers[place] = answer
    self.left -= 1
    if not self.left and self.future.set_running_or_notify_cancel():
      self.future.set_result(self.answers)

  def fail(self, error: Exception) -> None:
    """The error instead of all answers."""
    if self.future.set_running_or_notify_cancel():
      self.future.set_exception(error)


_Places = list[tuple[_Request, int]]


class Batcher:
  """Calls run(items) -> as many answers, on a thread of its own, of batch_size items at most.

  wait: seconds that an item waits for others, where there are too few for a batch. limit: items
  that may wait, beside those that are being computed.

  sizes: how often there was a batch of so many items.
  """

  def __init__(self, run: Callable[[list], Sequence], batch_size: int, wait: float, limit: int):
    self._run, self._batch_size, self._wait, self._limit = run, batch_size, wait, limit
    self._waiting: collections.deque[tuple[_Request, int]] = collections.deque()
    self._changed = threading.Condition()
    self._closed = False
    self.sizes: collections.Counter[int] = collections.Counter()
    # A daemon: a model that does not come back keeps no process alive.
    self._thread = threading.Thread(target=self._work, daemon=True, name='batches')
    self._thread.start()

  def submit(self, items: Sequence[Any]) -> futures.Future:
    """The answers to come, in the order of the items (one or more); cancel() withdraws them.

    The future raises what the model raised for these items.

    Raises:
      Full: they are more than may still wait; none of them does.
      RuntimeError: the queue is closed.
    """
    request = _Request(items)
    with self._changed:
      if self._closed:
        raise RuntimeError('the queue is closed')
      if len(self._waiting) + len(items) > self._limit:  # those whose callers have left go first
        self._waiting = collections.deque(_live(self._waiting))
      if len(self._waiting) + len(items) > self._limit:
        raise Full(f'{len(self._waiting)} texts wait of {self._limit} that may')
      self._waiting.extend((request, place) for place in range(len(items)))
      self._changed.notify()
    return request.future

  @property
  def waiting(self) -> int:
    """Items that wait, those of callers who have left among them."""
    return len(self._waiting)

  def close(self, seconds: float) -> bool:
    """Takes no more, and answers what waits; False where that takes longer than so many seconds.

    Then what still waits is cancelled.
    """
    with self._changed:
      self._closed = True
      self._changed.notify()
    self._thread.join(seconds)
    with self._changed:
      for request, _ in self._waiting:
        request.future.cancel()
      self._waiting.clear()
    return not self._thread.is_alive()

  def _work(self) -> None:
    while batch := self._take():
      self.sizes[len(batch)] += 1
      self._answer(batch)

  def _take(self) -> _Places:
    """The next batch; nothing when the queue is closed and empty."""
    batch: _Places = []
    with self._changed:
      while not batch:
        while not self._due():
          self._changed.wait(self._patience())
        if not self._waiting:
          return batch
        while self._waiting and len(batch) < self._batch_size:
          batch += _live([self._waiting.popleft()])
    return batch

  def _due(self) -> bool:
    if self._closed or len(self._waiting) >= self._batch_size:
      return True
    return bool(self._waiting) and self._patience() <= 0

  def _patience(self) -> float | None:
    """Seconds that the oldest may still wait for others."""
    if not self._waiting:
      return None
    return self._waiting[0][0].came + self._wait - time.monotonic()

  def _answer(self, batch: _Places) -> None:
    try:
      answers = self._run([request.items[place] for request, place in batch])
      found = list(zip(batch, answers, strict=True))
    except Exception as error:
      requests = list(dict.fromkeys(request for request, _ in batch))
      if len(requests) == 1:
        requests[0].fail(error)
        return
      for one in requests:  # each by itself: who sent what the model fails on, fails alone
        self._answer([(request, place) for request, place in batch if request is one])
      return
    for (request, place), answer in found:
      request.put(place, answer)


def _live(places) -> _Places:
  """Without those that nobody waits for: withdrawn, or failed in an earlier batch."""
  return [(request, place) for request, place in places if not request.future.done()]
