"""The command line: python -m kdjax.main --config=configs/<method>.py[:task] --workdir=DIR."""

import contextlib
import importlib.machinery
import importlib.util
import itertools
import os
import pathlib
import re
import sys
import tempfile
import traceback

from absl import app, flags

from kdjax import allocator, distributed, progress, quote, usage

_HERE = pathlib.Path(__file__).parent
_ALIKE = ('mode', 'fork', 'seeds')  # flags that all hosts have in common
_CONFIG = ('--config', '-config')
MODES = ('train', 'eval', 'predict', 'export', 'dry_run')


def configs_dir() -> pathlib.Path:
  """The installed copy of configs/ (beside the package in a checkout)."""
  inside = _HERE / 'configs'
  return inside if inside.is_dir() else _HERE.parent / 'configs'


def find_config(value: str) -> str:
  """Absolute path of a config file, `:task` kept.

  A relative path is looked for from the working directory, then in the installed copy, where
  `configs/kd.py` and `kd.py` are the same file.

  Raises:
    ValueError: there is none, naming those that exist.
  """
  name, colon, task = value.partition(':')
  path = pathlib.Path(name)
  for candidate in (path, configs_dir() / path.name):
    if candidate.is_file() and (candidate == path or path.parent.name in ('', 'configs')):
      return f'{candidate.absolute()}{colon}{task}'
  there = ', '.join(f'configs/{f.name}' for f in sorted(configs_dir().glob('[!_]*.py')))
  raise ValueError(f'no config file {name}: there are {there}')


def _share_configs(path: str) -> None:
  """Let a config file say `from configs import common`, wherever it lies."""
  spec = importlib.machinery.ModuleSpec('configs', None, is_package=True)
  near = pathlib.Path(path.partition(':')[0]).parent
  spec.submodule_search_locations = [str(near), str(configs_dir())]
  sys.modules['configs'] = importlib.util.module_from_spec(spec)


def get_config(value: str):
  """What --config=value is before its fields are set, for use from Python: 'configs/kd.py:sst2'."""
  path, _, task = _resolved(value).partition(':')
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(task)


def _main(argv) -> None:
  del argv
  # After the flags: jax is not loaded for --help.
  from kdjax import dry, exports, hosts, inference, jobs

  c, workdir, mode = flags.FLAGS.config, pathlib.Path(flags.FLAGS.workdir), flags.FLAGS.mode
  if 'grid' in c:
    sys.exit('error: a grid is many runs: python -m kdjax.reproduce takes it, with the same flags')
  if mode == 'train':
    train(c, workdir)
  elif mode == 'dry_run':
    with tempfile.TemporaryDirectory() as cache, one_line_errors():
      plan = jobs.prepare(c, workdir, cache, flags.FLAGS.fork)
      if hosts.first():
        dry.show(plan)
  else:
    with one_line_errors():
      does = dict(eval=inference.evaluation, predict=inference.prediction, export=exports.export)
      does[mode](c, workdir)


def train(c, workdir: pathlib.Path, do=None, held: bool = False) -> tuple:
  """All runs of a config, alone in their workdir: (plan, rows of the table).

  do: plan -> what is returned in the place of the rows; None: jobs.run. held: this process has the
  workdir already.
  """
  from kdjax import hosts, jobs, lock

  with contextlib.ExitStack() as until:
    with one_line_errors():
      if hosts.first() and not held:
        until.enter_context(lock.of(workdir))
      if hosts.several():
        word = hosts.agree(lambda: lock.sign(workdir))
        lock.check_shared(workdir, word)
      plan = jobs.prepare(c, workdir, fork=flags.FLAGS.fork)
    return plan, (do or jobs.run)(plan)


@contextlib.contextmanager
def one_line_errors():
  """Bad input ends the program with one line, before training; --debug shows the rest.

  Of several hosts all come out of it, or none: what one of them has found, the others say too.
  """
  from kdjax import hosts

  try:
    yield
  except (ValueError, OSError, ImportError) as e:
    hosts.fail(quote.line(e))
    if flags.FLAGS.debug:
      raise
    sys.exit(f'error: {quote.line(e)}')
  hosts.meet()


def line(e: Exception) -> str:
  """What ends training, in a line; '' where a traceback says more: --debug, or it is not ours."""
  if flags.FLAGS.debug:
    return ''
  if isinstance(e, MemoryError) or 'RESOURCE_EXHAUSTED' in str(e):
    return (
      f'out of memory ({quote.line(e)[:200]}): set config.train.remat=full, a larger '
      'config.train.accumulate, a smaller config.train.batch_size or config.data.max_length, or '
      'split the models by config.mesh.fsdp; --mode=dry_run shows what lies where'
    )
  raised = traceback.extract_tb(e.__traceback__)[-1].filename
  ours = isinstance(e, ValueError) and _HERE in pathlib.Path(raised).parents
  return quote.line(e) if ours or isinstance(e, (FloatingPointError, OSError)) else ''


def start(stoppable: bool = True) -> None:
  """Logging, and the cache of compiled programs, before any device is used.

  stoppable: SIGTERM and SIGINT do what kdjax.stop says.
  """
  if not progress.terminal():
    for library in ('HF_HUB', 'HF_DATASETS'):
      os.environ.setdefault(f'{library}_DISABLE_PROGRESS_BARS', '1')
  import jax

  from kdjax import hosts, log, stop

  log.setup(process=hosts.number())
  if stoppable:
    stop.listen()
  _compile_cache(jax)


def _compile_cache(jax) -> None:
  """Compiled programs are kept between runs: the first step is the first impression."""
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    home = pathlib.Path(os.environ.get('XDG_CACHE_HOME', pathlib.Path.home() / '.cache'))
    jax.config.update('jax_compilation_cache_dir', str(home / 'kdjax' / 'xla'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def _find_in_argv(argv: list[str]) -> list[str]:
  """The command line with --config resolved, before absl reads it."""
  out = []
  for i, arg in enumerate(argv):
    flag, equals, value = arg.partition('=')
    if flag in _CONFIG and equals:
      arg = f'{flag}={_resolved(value)}'
    elif i and argv[i - 1] in _CONFIG:
      arg = _resolved(arg)
    out.append(arg)
  return out


def _resolved(value: str) -> str:
  path = find_config(value)
  _share_configs(path)
  return path


def run(do=_main, page=usage.main) -> None:
  """Read the flags and do it; page: what --help shows, of (the folder of configs, one of them)."""
  allocator.keep_pages()
  from ml_collections import config_flags

  config_flags.DEFINE_config_file('config', None, 'A file of configs/, `:task` after it.')
  flags.DEFINE_string('workdir', None, 'Where everything is written.')
  flags.DEFINE_bool(
    'fork', False, 'Rename run folders of another config (teacher.1, ...) and begin anew.'
  )
  flags.DEFINE_string('distributed', '', 'Several processes: auto, or host:port,count,id.')
  debug()
  flags.mark_flags_as_required(['config', 'workdir'])
  try:
    argv = _find_in_argv(sys.argv)
    if usage.asked(argv):
      usage.show(page(configs_dir(), _named(argv)))
  except ValueError as e:
    sys.exit(f'error: {e}')

  def started(argv):
    with one_line_errors():
      distributed.start(flags.FLAGS.distributed)
    import jax

    from kdjax import hosts, runs

    with hosts.leaving(line):
      start()
      if hosts.several():
        jax.devices()  # at once: jax waits two minutes for a host that has no use for them yet
        with one_line_errors():
          asked = {f'--{name}': flags.FLAGS[name].value for name in _ALIKE if name in flags.FLAGS}
          hosts.same(asked | runs.facts(flags.FLAGS.config))
      do(argv)

  go(started, argv)


def _named(argv: list[str]) -> str:
  """The config of a command line; '' where there is none."""
  said = [part for arg in argv for part in arg.split('=', 1)]
  return next((b for a, b in itertools.pairwise(said) if a in _CONFIG), '')


def debug() -> None:
  """Define --debug."""
  flags.DEFINE_bool('debug', False, 'A traceback in the place of the line of an error.')


def go(do, argv=None) -> None:
  """As app.run; Ctrl-C where nothing else hears it is no traceback."""
  try:
    app.run(do, argv, flags_parser=parse)
  except KeyboardInterrupt:
    sys.exit('\r' * sys.stderr.isatty() + 'stopped')  # over the ^C of the terminal


_REMEDY = 'a flag changes a field that is there; a config file of your own can add one'


def parse(argv):
  """Flags, with a mistyped config key said in one line."""
  try:
    return flags.FLAGS(argv)
  except (AttributeError, KeyError) as e:  # ml_collections names the nearest key
    found = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', str(e))
    nearest = f'{found[2]!r}: did you mean {found[1]!r}?' if found else f'{e.args[0]}: {_REMEDY}'
    sys.exit(f'error: no such config key: {nearest}')
  except (flags.Error, TypeError, ValueError) as e:
    if missing := re.findall('Flag (--.+?) must have a value other than None', str(e)):
      sys.exit(f'error: {" and ".join(missing)} must be given; --help has examples')
    sys.exit(f'error: {quote.line(e)}')


if __name__ == '__main__':
  flags.DEFINE_enum('mode', 'train', MODES, 'What to do.')
  run()
