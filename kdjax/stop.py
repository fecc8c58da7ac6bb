"""Being told to stop: SIGTERM and SIGINT end the program at a safe point, with exit status CODE.

Training holds the signal until its state is saved; everything else stops where it is, since what
it writes is written aside and renamed. The same command goes on from there. A second signal stops
at once. Where Python cannot hear it (a program is being compiled), the program ends after GRACE
seconds, with the last checkpoint as it was.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator

from kdjax import log

CODE = 75  # EX_TEMPFAIL of sysexits.h: start the same command again
GRACE = 25.0  # seconds

_asked = threading.Event()
_saving = threading.Event()
_holds = 0


class Stopped(SystemExit):
  """The program was told to stop; what was to be saved is saved."""

  def __init__(self):
    super().__init__(CODE)


def listen() -> None:
  """From now on SIGTERM and SIGINT do what this module says; of the main thread alone."""
  if threading.current_thread() is not threading.main_thread():
    return
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  # Written by the C handler at once, whatever the main thread is busy with.
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _heard)
  threading.Thread(target=_watch, args=(reader,), daemon=True, name='stop').start()


def asked() -> bool:
  """Whether a signal has come."""
  return _asked.is_set()


def point() -> None:
  """A place to stop at: Stopped where a signal has come."""
  if asked():
    raise Stopped


@contextlib.contextmanager
def hold() -> Iterator[None]:
  """Inside, a signal waits for the next `point`."""
  global _holds
  _holds += 1
  try:
    yield
  finally:
    _holds -= 1


@contextlib.contextmanager
def saving() -> Iterator[None]:
  """Inside, the first signal is given all the time it takes."""
  _saving.set()
  try:
    yield
  finally:
    _saving.clear()


def _heard(number: int, frame) -> None:
  del frame
  if asked():
    os._exit(CODE)
  _asked.set()
  log.logger.warning(
    '%s: stopping; the same command goes on. Once more stops at once.', signal.Signals(number).name
  )
  if not _holds:
    raise Stopped


def _watch(reader: int) -> None:
  """Ends the program where the main thread does not come to a safe point, or at a second signal."""
  while os.read(reader, 1)[0] not in (signal.SIGTERM, signal.SIGINT):
    pass
  end = time.monotonic() + GRACE
  while _saving.is_set() or time.monotonic() < end:
    if select.select([reader], [], [], 0.2)[0] and os.read(reader, 1)[0] in (
      signal.SIGTERM, signal.SIGINT
    ):  # fmt: skip
      break
  os._exit(CODE)
