"""How far something is: a line that a terminal draws anew, or where there is none, one a minute."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator

import tqdm

_log = logging.getLogger('kdjax')
_EVERY, _DRAWN = 60.0, 0.1  # seconds between two plain lines, between two drawings
_LEFT = '{desc} |{bar:10}| {n_fmt}/{total_fmt}, {remaining} left{postfix}'
_DONE = _LEFT.replace('{remaining} left', '{elapsed}')
_OPEN = '{desc}: {n_fmt}{unit}, {elapsed}{postfix}'
_REST = 36  # columns of a line but for its title, its counts and its numbers


def terminal() -> bool:
  """Whether standard error is one that can draw a line anew."""
  return sys.stderr.isatty() and os.environ.get('TERM') != 'dumb'


class Line:
  """`update` counts, and says numbers; to be closed. A file gets no carriage return.

  total: None where nobody knows it. done: how many were done before. shown: False for the hosts
  behind the first, which say nothing.
  """

  def __init__(
    self, title: str, total: int | None = None, done: int = 0, unit: str = 'step', shown=True
  ):
    self.n, self._title, self._total, self._unit = done, title, total, unit
    self._shown, self._begin, self._bar, self._said = shown, done, None, {}
    self._told = done  # of these the last plain line was
    self._began = self._last = time.monotonic()
    if shown and terminal():
      self._bar = tqdm.tqdm(
        total=total, initial=done, desc=title, unit=f' {unit}s', dynamic_ncols=True,
        mininterval=0, miniters=1, bar_format=_LEFT if total else _OPEN,
      )  # fmt: skip

  def update(self, n: int = 1, **numbers: float) -> None:
    """n more are done; the numbers stand in the line until they are given anew."""
    self.n += n
    self._said |= numbers
    if self._shown and time.monotonic() >= self._last + (_EVERY if self._bar is None else _DRAWN):
      self._say()

  def each(self, items: Iterable) -> Iterator:
    """The items, each counted when the next is asked for; closed behind the last."""
    with self:
      for item in items:
        yield item
        self.update()

  def close(self) -> None:
    """The line as it stands at the end."""
    if self._shown and self.n > (self._begin if self._bar is not None else self._told):
      self._say()
    if self._bar is not None:
      if self._total:
        self._bar.bar_format = _DONE
      self._bar.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _say(self) -> None:
    self._last = time.monotonic()
    said = [
      f'{k} {v:,.0f}' if abs(v) >= 1000 else f'{k} {v:.3g}'
      for k, v in sorted(self._said.items(), key=lambda pair: pair[0].endswith('/s'))
    ]  # speeds come last
    if self._bar is not None:
      columns = os.get_terminal_size(sys.stderr.fileno()).columns
      room = columns - _REST - len(self._title) - 2 * len(str(self._total))
      while said and len(', '.join(said)) > room:
        said.pop()
      self._bar.set_postfix_str(', '.join(said), refresh=False)
      self._bar.update(self.n - self._bar.n)
      return
    self._told = self.n
    past, clock = self._last - self._began, tqdm.tqdm.format_interval
    times = clock(past)
    if self._total and self.n < self._total:
      times += f', {clock(past * (self._total - self.n) / (self.n - self._begin))} left'
    count = f'{self.n:,} of {self._total:,}' if self._total else f'{self.n:,}'
    _log.info(f'{self._title}: {self._unit} {", ".join([count, *said])} ({times})')
