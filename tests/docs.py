"""The code in the documentation, and shells and parsers that it can be given to."""

import argparse
import os
import pathlib
import re
import runpy
import shutil
import stat
import subprocess
import sys
import warnings
from typing import NamedTuple

import markdown_it
import pytest
from absl import app, flags

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ['README.md', 'launch/README.md', 'notebooks/README.md']
PAGES += [f'docs/{p.name}' for p in ROOT.glob('docs/*.md')]
# Programs whose command lines tests/test_documentation.py looks at; any other is not found.
PROGRAMS = (
  'python',
  'python3',
  'pip',
  'ruff',
  'tail',
  'curl',
  'docker',
  'kubectl',
  'xpk',
  'jupyter',
)
_RECORD = '#!/usr/bin/env bash\nprintf "%s\\0" "$0" "$@" $\'\\1\' >>"$CALLS"\n'
_REAL = """#!/usr/bin/env bash
case "$*" in *kdjax.main*|*kdjax.reproduce*) exec {0} "$@" {1};; esac
exec {0} "$@"
"""


class Block(NamedTuple):
  """A block of code: its page, its line there, the word behind its fence, and the text."""

  page: str
  line: int
  kind: str
  text: str


def blocks(page: str, *kinds: str) -> list[Block]:
  """Of a page, in order; of these kinds, or all."""
  tokens = markdown_it.MarkdownIt().parse((ROOT / page).read_text(encoding='utf8'))
  code = [t for t in tokens if t.type in ('fence', 'code_block')]
  found = [Block(page, t.map[0] + 1, t.info.strip(), t.content) for t in code]
  return [block for block in found if not kinds or block.kind in kinds]


def shell(
  text: str, folder: pathlib.Path, more: str | None = None, root: pathlib.Path = ROOT
) -> list[list[str]]:
  """What bash makes of it: the command lines of the programs that it calls, in order.

  None of those runs. more: of them python does, with these flags behind those of kdjax.main and
  kdjax.reproduce; root: whose code it is.

  Raises:
    AssertionError: bash ends with another status than 0, as where it finds no such program.
  """
  here = folder / 'programs'
  if not here.exists():
    here.mkdir()
    for name in PROGRAMS:
      _script(here / name, _RECORD)
    _script(here / 'taskset', '#!/usr/bin/env bash\nshift 2\nexec "$@"\n')
    (here / 'activate').write_text('')
    (folder / '.venv').mkdir()
    (folder / '.venv' / 'bin').symlink_to(here)
    (folder / 'launch').mkdir()
    for path in ROOT.glob('launch/*.sh'):
      _script(folder / 'launch' / path.name, _RECORD)
  _script(here / 'python', _RECORD if more is None else _REAL.format(sys.executable, more))
  calls = folder / 'calls'
  calls.write_text('')
  text = re.sub(r'<[A-Za-z0-9][^<>\n]*>', 'PLACEHOLDER', text)
  path = os.pathsep.join([str(here), '/usr/bin', '/bin'])
  environment = os.environ | dict(PATH=path, CALLS=str(calls), PYTHONPATH=str(root))
  done = subprocess.run(
    ['bash', '-euo', 'pipefail', '-c', text],
    cwd=folder, env=environment, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, (text, done.stdout[-2000:], done.stderr[-4000:])
  lines = calls.read_text().split('\0\1\0')[:-1]
  return [[line.split('\0')[0].rpartition('/')[2], *line.split('\0')[1:]] for line in lines]


def _script(path: pathlib.Path, text: str) -> None:
  path.write_text(text)
  path.chmod(path.stat().st_mode | stat.S_IXUSR)


def parse(command: list[str], monkeypatch):
  """The flags of a Python program, as its own parser reads them; it goes no further.

  command: -m, a module and arguments, or a file and arguments.

  Raises:
    SystemExit, argparse's or absl's errors: there is no such flag, value, config or field.
  """
  known, settings = set(flags.FLAGS), dict(os.environ)
  modules = {name: sys.modules[name] for name in sys.modules if _of_configs(name)}
  found = []

  def absl_run(main, argv=None, flags_parser=app.parse_flags_with_usage):
    del main
    flags_parser(argv or sys.argv)
    found.append({name: flags.FLAGS[name].value for name in set(flags.FLAGS) - known})
    raise _ParsedError

  def parse_args(self, args=None, namespace=None):
    found.append(vars(real(self, args, namespace)))
    raise _ParsedError

  real = argparse.ArgumentParser.parse_args
  with monkeypatch.context() as patched, warnings.catch_warnings(action='ignore'):
    patched.setattr(app, 'run', absl_run)
    patched.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
    patched.setattr('kdjax.allocator.keep_pages', lambda: None)
    patched.setattr(sys, 'path', [str(ROOT), *sys.path])
    try:
      if command[0] == '-m':
        patched.setattr(sys, 'argv', command[1:])
        runpy.run_module(command[1], run_name='__main__')
      else:
        patched.setattr(sys, 'argv', command)
        runpy.run_path(str(ROOT / command[0]), run_name='__main__')
    except _ParsedError:
      return found[0]
    finally:
      for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)
      flags.FLAGS.unparse_flags()
      os.environ.clear()
      os.environ.update(settings)
      for name in [name for name in sys.modules if _of_configs(name)]:
        del sys.modules[name]
      sys.modules.update(modules)
  return pytest.fail(f'{command} has read no flags')


class _ParsedError(Exception):
  pass


def _of_configs(name: str) -> bool:
  return name.partition('.')[0] == 'configs'


def copy(to: pathlib.Path) -> pathlib.Path:
  """The code of the repository in another folder, where it may be changed."""
  for name in ('kdjax', 'configs', 'tests'):
    shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns('__pycache__'))
  shutil.copy(ROOT / 'setup.cfg', to)
  return to


def run(text: str, folder: pathlib.Path, root: pathlib.Path = ROOT) -> None:
  """Python code, in a process of its own."""
  environment = os.environ | dict(PYTHONPATH=str(root))
  subprocess.run([sys.executable, '-c', text], cwd=folder, env=environment, check=True)
