"""Label columns to arrays: classes, scores, or a bit per class. Errors name row, value, remedy.

Rows are counted from 1 in errors.
"""

import math
import numbers
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdjax import quote

_LARGEST = float(np.finfo(np.float32).max)
_PLAIN = (str, numbers.Number)  # what a class may be named by
_INTEGER = re.compile(r'[+-]?\d{1,18}')


def infer(values: Sequence[Any], kind: str) -> tuple[str, ...]:
  """Class names of a label column: its distinct values in order, integers by their size.

  Missing values, and what is neither text nor number, count for nothing; a list (or 'a|b') counts
  for its members in 'multilabel'.
  """
  if kind == 'multilabel':
    values = [name for value in values if not _missing(value) for name in members(value)]
  names = {_name(value) for value in values if isinstance(value, _PLAIN) and not _missing(value)}
  if kind == 'classes':
    names.discard('-1')  # 'no label' by the custom of GLUE; to have it as a class, name the classes
  integers = all(_INTEGER.fullmatch(name) for name in names)
  return tuple(sorted(names, key=(lambda name: (int(name), name)) if integers else None))


def classes(
  values: Sequence[Any], names: tuple[str, ...], where: str, optional: bool
) -> np.ndarray:
  """Names or ids -> i32[n]; -1 where there is none.

  A value is looked up as a name first; an integer that is no name is an id, unless the names are
  integers themselves.

  Args:
    where: file and column, for errors.
    optional: rows may have no label (a test split).

  Raises:
    ValueError: a value that is neither name nor id, or no label where there must be one.
  """
  known = _known(names)
  out = np.full(len(values), -1, np.int32)
  for i, value in enumerate(values):
    if _missing(value) or (_name(value) == '-1' and '-1' not in known):
      if not optional:
        raise ValueError(
          f'{where}: row {i + 1} has no label ({quote.value(value)}), and only a test '
          'split may lack them: take the row out, or give its label'
        )
      continue
    if _name(value) not in known:
      raise _unknown(where, i, value, names)
    out[i] = known[_name(value)]
  return out


def scores(values: Sequence[Any], where: str, optional: bool) -> np.ndarray:
  """Numbers -> f32[n]; NaN where there is none.

  In a test split, a column that is -1 throughout is GLUE's way to say that there are no scores.

  Raises:
    ValueError: no number, not finite, or missing where there must be one.
  """
  out = np.full(len(values), np.nan, np.float32)
  for i, value in enumerate(values):
    if _missing(value) and optional:
      continue
    try:
      number = float(value)
    except (TypeError, ValueError, OverflowError):
      number = math.nan
    if not abs(number) <= _LARGEST:  # nor NaN
      raise ValueError(
        f'{where}: row {i + 1} is {quote.value(value)}, not a finite number: correct or drop '
        'the row'
      )
    out[i] = number
  if optional and len(out) and (out == -1).all():
    out[:] = np.nan
  return out


def bits(values: Sequence[Any], names: tuple[str, ...], where: str, optional: bool) -> np.ndarray:
  """Lists of names or ids, or strings 'a|b' -> f32[n, C] of 0 and 1; NaN rows where there is none.

  An empty list or string says that no class applies.

  Raises:
    ValueError: an unknown member, or no label where there must be one.
  """
  known = _known(names)
  out = np.zeros((len(values), len(names)), np.float32)
  for i, value in enumerate(values):
    if value is None:
      if not optional:
        raise ValueError(f'{where}: row {i + 1} has no label: an empty list says that none applies')
      out[i] = np.nan
      continue
    for member in members(value):
      if _name(member) not in known:
        raise _unknown(where, i, member, names)
      out[i, known[_name(member)]] = 1
  return out


def flags(values: Sequence[Any], where: str) -> np.ndarray:
  """One column of 0 and 1 -> f32[n].

  Raises:
    ValueError: another value.
  """
  known = {'0': 0.0, '1': 1.0, 'False': 0.0, 'True': 1.0}
  for i, value in enumerate(values):
    if _name(value) not in known:
      raise ValueError(f'{where}: row {i + 1} is {quote.value(value)}; it must be 0 or 1')
  return np.array([known[_name(value)] for value in values], np.float32)


def members(value: Any) -> list[Any]:
  """The classes of one row: a list as it is, 'a|b' cut at the bars, a lone id by itself."""
  if isinstance(value, str):
    return [part.strip() for part in value.split('|') if part.strip()]
  if isinstance(value, list | tuple | np.ndarray):
    return list(value)
  return [value]


def _missing(value: Any) -> bool:
  if isinstance(value, str):
    return not value.strip()
  return value is None or (isinstance(value, float) and math.isnan(value))


def _name(value: Any) -> str:
  """'1' for 1, 1.0 and '1': integers with missing values come as floats from some writers."""
  if isinstance(value, float | np.floating) and value.is_integer():
    return str(int(value))
  return str(value).strip()


def _known(names: tuple[str, ...]) -> dict[str, int]:
  by_id = {str(i): i for i in range(len(names))}
  by_name = {name: i for i, name in enumerate(names)}
  return by_name if all(_INTEGER.fullmatch(name) for name in names) else by_id | by_name


def _unknown(where: str, i: int, value: Any, names: tuple[str, ...]) -> ValueError:
  some = ', '.join(
    name if name.isprintable() and len(name) < 30 else quote.value(name) for name in names[:20]
  )
  some += f', and {len(names) - 20} more' * (len(names) > 20)
  return ValueError(
    f'{where}: row {i + 1} is {quote.value(value)}, which is none of the {len(names)} known labels '
    f'({some}): correct the row, or name all classes of the task'
  )
