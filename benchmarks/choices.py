"""Flags of several values, each of which is one of a few."""

from collections.abc import Iterable, Sequence

from absl import flags


def define(name: str, default: Sequence[str], known: Iterable[str], said: str) -> flags.FlagHolder:
  """A flag of values by commas; absl refuses others before the program begins."""
  known = tuple(known)
  holder = flags.DEFINE_list(name, list(default), said)
  flags.register_validator(
    holder, lambda values: set(values) <= set(known), f'by commas, of {", ".join(known)}'
  )
  return holder
