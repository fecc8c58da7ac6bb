"""Several processes of one run: the first writes, the others wait, and one that fails says so.

What they tell each other goes through jax's coordination service, not through devices: it passes
beside any computation, waits as long as the slowest needs, and is text of any length. They meet in
the same order everywhere, since all run one program; so the next meeting is also where a host that
has failed is heard. With one process nothing here does anything.
"""

import contextlib
import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

# As Orbax does: jax has no public name for its service's keys and values.
from jax._src.distributed import global_state as service

FOREVER = 7 * 24 * 3600.0  # seconds; who has died is known much sooner, by jax's heartbeat
FAREWELL = 60.0  # seconds that a host which has failed waits for the others to hear it

_meetings = itertools.count()


class Elsewhere(SystemExit):
  """Another host has failed, and has said why; so this one ends too."""


def several() -> bool:
  """Whether there is more than one process."""
  return service.num_processes > 1


def number() -> int:
  """Of this process, from 0."""
  return service.process_id


def first() -> bool:
  """Whether this is the process that writes."""
  return number() == 0


def meet(value: Any = None) -> list[Any]:
  """What each host brings, anything that JSON holds, by their numbers; once all have come.

  Raises:
    Elsewhere: one has come with an error.
  """
  if not several():
    return [value]
  found = _exchange(dict(value=value), FOREVER)
  said = [f'process {n}: {row["error"]}' for n, row in enumerate(found) if 'error' in row]
  if said:
    raise Elsewhere('error: ' + '; '.join(said))
  return [row['value'] for row in found]


def agree(ask: Callable[[], Any]) -> Any:
  """What the first host finds, told to all: others may see its files as they were, or not yet."""
  return meet(ask() if first() else None)[0]


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
  """Inside is the first host, and the others after it: they find what it has written."""
  if not first():
    meet()
  yield
  if first():
    meet()


def same(facts: dict[str, Any]) -> None:
  """ValueError, at all hosts alike, unless they bring the same facts; by name, what JSON holds."""
  if not several():
    return
  found = meet(facts)
  names = dict.fromkeys(name for row in found for name in row)
  apart = [name for name in names if any(row.get(name) != found[0].get(name) for row in found)]
  if apart:
    more = f'; and {len(apart) - 4} more' * (len(apart) > 4)
    said = '; '.join(f'{name} is {_whose([row.get(name) for row in found])}' for name in apart[:4])
    raise ValueError(
      f'the hosts do not agree: {said}{more}. Start all of them with one command, on one version '
      'of the packages and of the data'
    )


def _whose(values: list[Any]) -> str:
  """'1 of process 0, 2 of processes 1, 3'."""
  owners: dict[str, list[str]] = {}
  for n, value in enumerate(values):
    owners.setdefault(repr(value), []).append(str(n))
  return ', '.join(f'{v} of process{"es" * (len(o) > 1)} {", ".join(o)}' for v, o in owners.items())


def fail(said: str) -> None:
  """Bring an error to the next meeting, so that all end; where the others do not come, just end."""
  if not several():
    return
  try:
    _exchange(dict(error=said), FAREWELL)
  except Exception:  # they are busy with something that waits for this host, or are gone
    print(f'error: {said}', file=sys.stderr)
    _leave()


@contextlib.contextmanager
def leaving(line: Callable[[Exception], str]) -> Iterator[None]:
  """Around all: what fails in training ends with its line, or with a traceback where it is ''.

  One of several hosts ends at once. Its connections end with it, and the others by that, or by
  jax's heartbeat. Python's own way out would wait for them at jax's last barrier, and they for it
  in the midst of a step.
  """
  try:
    yield
  except Exception as e:
    said = line(e)
    if not several():
      if said:
        sys.exit(f'error: {said}')
      raise
    if said:
      print(f'error: {said}', file=sys.stderr)
    else:
      traceback.print_exc()
    _leave()


def _leave() -> None:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(1)


def _exchange(mine: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
  name = f'kdjax/{next(_meetings)}'
  service.client.key_value_set(f'{name}/{number()}', json.dumps(mine, default=str))
  found = [
    service.client.blocking_key_value_get(f'{name}/{n}', int(1000 * seconds))
    for n in range(service.num_processes)
  ]
  return [json.loads(row) for row in found]
