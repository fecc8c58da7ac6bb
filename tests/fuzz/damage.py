"""Damaged bytes and JSON to read, and what may come of reading them."""

import copy
import faulthandler
import json
import pathlib
import sys
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

_SECONDS = 120  # for one input, on a busy machine; one takes milliseconds
_LONGEST = 1500  # characters of an error

# Whatever JSON can say in the place of what is expected.
ANY = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(-5, 5),
  st.sampled_from([2**31, -(2**31), 2**62, 2**64, 10**12, 10**30, 0.5, 1e-300, 1e300]),
  st.floats(),
  st.text(max_size=8),
  st.sampled_from(['', ' ', '1', ' 1 ', '1.0', '../../x', '/etc/passwd', '\0']),
  st.just(100_000).map('a'.__mul__),
  st.lists(st.integers(-2, 2**40), max_size=3),
  st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
  st.just([[[[]]]]),
)


def outcome(path: pathlib.Path, read: Callable[[], object]) -> str:
  """'read', or 'refused' by an error that a user can use: it names the file, on one short line.

  Any other error is raised. What takes minutes ends the process with a traceback of where it hangs.
  """
  faulthandler.dump_traceback_later(_SECONDS, exit=True, file=sys.__stderr__)
  try:
    read()
  except (ValueError, OSError) as error:
    said = str(error)
    assert path.name in said, said
    assert said.isprintable() and len(said) < _LONGEST, said[:3000]
    return 'refused'
  finally:
    faulthandler.cancel_dump_traceback_later()
  return 'read'


def edited(data: bytes) -> st.SearchStrategy[bytes]:
  """These bytes after some edits, never as they were."""
  kinds = st.sampled_from(['flip', 'set', 'insert', 'drop', 'repeat', 'cut'])
  edit = st.tuples(kinds, st.integers(0, max(0, len(data) - 1)), st.binary(min_size=1, max_size=8))
  made = st.lists(edit, min_size=1, max_size=4).map(lambda edits: _apply(data, edits))
  return made.filter(lambda found: found != data)


def changed(found: dict, keys: Sequence[str] = (), values=ANY) -> st.SearchStrategy[dict]:
  """A JSON object with some of its fields (at any depth), or these keys, changed or left out."""
  places = [*_places(found), *((key,) for key in keys)]
  what = st.one_of(values, values, values, st.just(_GONE))
  edits = st.lists(st.tuples(st.sampled_from(places), what), min_size=1, max_size=3)
  return edits.map(lambda made: _set(found, made)).filter(lambda made: made != found)


def as_json(found: dict) -> bytes:
  """As JSON, with NaN and halves of surrogate pairs where there are any."""
  return json.dumps(found).encode()


_GONE = object()


def _places(found, before=()):
  for key, value in found.items() if isinstance(found, dict) else enumerate(found):
    yield (*before, key)
    if isinstance(value, dict | list):
      yield from _places(value, (*before, key))


def _set(found, edits):
  found = copy.deepcopy(found)
  for (*way, last), value in edits:
    place = found
    try:
      for key in way:
        place = place[key]
      if value is _GONE:
        del place[last]
      else:
        place[last] = value
    except (KeyError, IndexError, TypeError):
      pass  # an earlier edit took the place away
  return found


def _apply(data: bytes, edits) -> bytes:
  out = bytearray(data)
  for kind, at, piece in edits:
    at = min(at, len(out))
    if kind == 'flip' and at < len(out):
      out[at] ^= piece[0] or 1
    elif kind == 'set':
      out[at : at + len(piece)] = piece
    elif kind == 'insert':
      out[at:at] = piece
    elif kind == 'drop':
      del out[at : at + piece[0]]
    elif kind == 'repeat':
      out[at:at] = out[at : at + piece[0]] * 3
    elif kind == 'cut':
      del out[at:]
  return bytes(out)
