"""What a config.json may say: one line that names the key and its value where it says more."""

from collections.abc import Iterable
from typing import Any

from kdjax import quote


def between(name: str, value: Any, low: float, high: float) -> Any:
  """The value; ValueError unless it is a number of low's type in these bounds."""
  kinds = (int,) if isinstance(low, int) else (int, float)
  if type(value) not in kinds or not low <= value <= high:  # nor NaN
    kind = 'an integer' if isinstance(low, int) else 'a number'
    raise ValueError(f'{name} is {quote.value(value)}; it must be {kind} from {low} to {high}')
  return value


def one_of(name: str, value: Any, known: Iterable[Any]) -> Any:
  """The value; ValueError unless it is one of those that are supported, and of its type."""
  known = list(known)
  if not any(type(value) is type(k) and value == k for k in known):
    raise ValueError(f'{name} {quote.value(value)} is not supported; it may be one of {known}')
  return value
