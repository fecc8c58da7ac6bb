"""One process at a time in a workdir; of several hosts, the first, and all of them see the same."""

import contextlib
import fcntl
import os
import pathlib
import time
import uuid
from collections.abc import Iterator

FILE = '.lock'
HOLDER = '.holder'  # what the first of several hosts says who it is by
PATIENCE = 60.0  # seconds until what one host wrote is seen by all: NFS keeps what it knew a while


@contextlib.contextmanager
def of(workdir: pathlib.Path) -> Iterator[None]:
  """Hold the workdir; given up with the process, however it ends.

  Raises:
    ValueError: another process holds it, with its number; or nothing can be written there.
  """
  path = workdir / FILE
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    file = path.open('a+', encoding='utf8')
  except OSError as e:
    raise ValueError(f'cannot write to --workdir={workdir}: {e.strerror or e}') from None
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      who = file.read().strip() or '?'
      raise ValueError(
        f'{workdir} is in use by process {who}: wait for it, or take another --workdir'
      ) from None
    except OSError:  # a file system without locks
      pass
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    yield


def sign(workdir: pathlib.Path) -> str:
  """Leaves a word of the first of several hosts in the workdir, for the others to find: that word.

  In a file that is closed: a mounted bucket shows no other, and the lock's stays open.
  """
  word = uuid.uuid4().hex
  (workdir / HOLDER).write_text(word, encoding='utf8')
  return word


def check_shared(workdir: pathlib.Path, word: str) -> None:
  """ValueError unless this host finds the word that the first one has left in the workdir."""
  began = time.monotonic()
  while True:
    with contextlib.suppress(OSError):
      if (workdir / HOLDER).read_text(encoding='utf8') == word:
        return
    if time.monotonic() > began + PATIENCE:
      raise ValueError(
        f'--workdir={workdir} is not the folder that the first host writes to: all hosts need one '
        'on a file system that they share'
      )
    time.sleep(1)
