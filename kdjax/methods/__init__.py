"""The methods: a file name is the registry.

base.py says what a method is; the other files of PARTS are what methods are made of.
"""

import importlib
import pathlib
from collections.abc import Callable

PARTS = ('base', 'blend', 'banks', 'layers', 'masking')


def names() -> list[str]:
  """Every method there is."""
  files = pathlib.Path(__file__).parent.glob('*.py')
  return sorted(f.stem for f in files if f.stem not in ('__init__', *PARTS))


def get(name: str) -> Callable:
  """make(c: ConfigDict, env: Env) -> Method, of the method with this file name."""
  if name not in names():
    raise ValueError(f'method {name!r} is none of {", ".join(names())}')
  return importlib.import_module(f'kdjax.methods.{name}').make


def about(name: str) -> str:
  """The first line of what the method says of itself."""
  get(name)
  return (importlib.import_module(f'kdjax.methods.{name}').__doc__ or name).partition('\n')[0]
