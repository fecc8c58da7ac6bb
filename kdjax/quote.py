"""How errors quote what was read: on one line, printable and short, whatever was in the file."""

import reprlib

_MOST = 300  # characters
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 80
_repr.maxlist = _repr.maxtuple = _repr.maxdict = 20
_repr.maxlevel = 3


def value(x: object) -> str:
  """Its repr; where that is long, its middle is left out."""
  said = _repr.repr(x)
  return said if len(said) <= _MOST else f'{said[:_MOST]}...'


def names(found) -> str:
  """'a', 'b': at most twenty of them."""
  found = list(found)
  return ', '.join(map(value, found[:20])) + f', and {len(found) - 20} more' * (len(found) > 20)


def line(e: BaseException) -> str:
  """What an error of ours says, whole, on one line."""
  return ' '.join(str(e).split()) or type(e).__name__


def error(e: BaseException) -> str:
  """What an error of a library says: it may quote bytes of the file."""
  said = ' '.join(''.join(c if c.isprintable() else ' ' for c in str(e)).split())
  said = said or type(e).__name__
  return said if len(said) <= _MOST else f'{said[:_MOST]}...'
