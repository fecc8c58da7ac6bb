"""Being told to stop: SIGTERM and SIGINT end the program at a safe point, with exit status CODE.

Training holds the signal until its state is saved; everything else stops where it is, since what
it writes is written aside and renamed. The same command goes on from there. A second signal stops
at once. Where Python cannot hear it (a program is being compiled), the program ends after GRACE
seconds, with the last checkpoint as it was.

Of several hosts one may be told alone. It tells the others by jax's preemption service, and all of
them stop after the same step of training: one that left by itself would leave the others waiting.
"""

import contextlib
import ctypes
import itertools
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from kdjax import log, progress

CODE = 75  # EX_TEMPFAIL of sysexits.h: start the same command again
GRACE = 25.0  # seconds
ECHO = 2.0  # seconds in which one SIGTERM more is the same: launchers pass theirs on beside ours

_told = threading.Event()  # this process has had a signal
_asked = threading.Event()
_saving = threading.Event()
_steps = itertools.count()  # of all runs together: the service counts on, and never back
_tell: Callable[[int], None] | None = None  # the other hosts
_holds = 0


class Stopped(SystemExit):
  """The program was told to stop; what was to be saved is saved."""

  def __init__(self):
    super().__init__(CODE)


def listen() -> None:
  """From now on SIGTERM and SIGINT do what this module says; of the main thread alone.

  On several hosts it comes after jax.distributed.initialize: our handler calls the one that this
  installs, which would take the place of ours.
  """
  global _tell
  if threading.current_thread() is not threading.main_thread():
    return
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  # Written by the C handler at once, whatever the main thread is busy with.
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  if jax.distributed.is_initialized():
    _tell = _c_handler(signal.SIGTERM)
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _heard)
  threading.Thread(target=_watch, args=(reader,), daemon=True, name='stop').start()


def _c_handler(number: int) -> Callable[[int], None] | None:
  """Takes away what C code does at a signal, and returns it: Python cannot name it."""
  library = ctypes.CDLL(None)
  library.signal.argtypes, library.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
  found = library.signal(number, None)
  nothing = (None, int(signal.SIG_IGN))
  return None if found in nothing else ctypes.CFUNCTYPE(None, ctypes.c_int)(found)


def asked() -> bool:
  """Whether to stop: a signal has come, or all hosts have agreed on it."""
  return _asked.is_set()


def agreed() -> bool:
  """`asked` after a step of training: of several hosts each says the same after the same step."""
  if multihost_utils.reached_preemption_sync_point(next(_steps)):
    _asked.set()
  return asked()


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
  if _told.is_set():
    return  # `_watch` decides what a second one is
  _told.set()
  # The terminal's ^C is wiped away.
  over = '\r\x1b[K' * (number == signal.SIGINT and progress.terminal())
  log.logger.warning(
    f'{over}{signal.Signals(number).name}: stopping; the same command goes on. '
    'Once more stops at once.'
  )
  if _tell:  # the rest follows from `agreed`
    _tell(signal.SIGTERM)
    return
  _asked.set()
  if not _holds:
    raise Stopped


def _watch(reader: int) -> None:
  """Ends the program where the main thread does not come to a safe point, or at a second signal."""
  stops = (signal.SIGTERM, signal.SIGINT)
  while os.read(reader, 1)[0] not in stops:
    pass
  began = time.monotonic()
  while _saving.is_set() or time.monotonic() < began + GRACE:
    if not select.select([reader], [], [], 0.2)[0]:
      continue
    number = os.read(reader, 1)[0]
    if number in stops and not (number == signal.SIGTERM and time.monotonic() < began + ECHO):
      break
  else:
    # Not by the log: whoever is busy may hold its lock.
    with contextlib.suppress(OSError):
      os.write(2, f'No safe point within {GRACE:g} s: the last checkpoint stands.\n'.encode())
  os._exit(CODE)
