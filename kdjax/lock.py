"""One process at a time in a workdir."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

FILE = '.lock'


@contextlib.contextmanager
def of(workdir: pathlib.Path) -> Iterator[None]:
  """Hold the workdir; given up with the process, however it ends.

  Raises:
    ValueError: another process holds it, with its number.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / FILE
  with open(path, 'a+', encoding='utf8') as file:
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
