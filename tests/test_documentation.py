"""Every block of code in the documentation runs, or is read by the program that it is for."""

import configparser
import itertools
import json
import re
import shutil
import urllib.request

import jax
import markdown_it
import numpy as np
import pytest
from absl import flags

from kdjax import methods, metrics
from kdjax.methods import base
from tests import docs, tiny, toy
from tests.test_serve import started  # noqa: F401

# Blocks that a program has printed, or that the site's builder reads.
SHOWN = ('', '{toctree}', '{eval-rst}')
OTHERS = ('pytest', 'sphinx', 'tensorboard.main', 'venv')  # python -m: not of this project
ALONE = 'docs/extend.md'  # changes the code: what is there is run in a copy of it
TOY = (
  '--config.teacher.init=base --config.teacher.steps=4 --config.train.steps=4 --config.compare= '
  '--config.train.batch_size=16 --config.student.layers=1 --config.data.max_length=16 '
  '--config.generator.steps=4 --config.generator.layers=1 --config.train.tensorboard=False'
)


def every(*kinds):
  pages = [page for page in docs.PAGES if page != ALONE]
  found = [block for page in pages for block in docs.blocks(page, *kinds)]
  return pytest.mark.parametrize('block', found, ids=lambda b: f'{b.page}:{b.line}')


def test_every_block_says_what_it_is():
  known = {'python', 'sh', 'json', *SHOWN}
  found = [block for page in docs.PAGES for block in docs.blocks(page)]
  assert len(found) > 60
  assert not [block for block in found if block.kind not in known]
  for block in found:
    if not block.kind:
      assert not re.search(r'^(\$|python|pip|launch|import|from) ', block.text, re.M), block


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('commands')


@every('sh')
def test_a_command_is_one_that_its_program_takes(block, folder, monkeypatch):
  monkeypatch.chdir(folder)
  called = docs.shell(block.text, folder)
  assert called or 'activate' in block.text
  for program, *arguments in called:
    _check(program, arguments, monkeypatch)


@pytest.mark.parametrize(
  'command',
  [
    'python -m kdjax.main --config=configs/kd.py --workdir=w --config.train.rat=1',
    'python -m kdjax.main --config=configs/dk.py --workdir=w',
    'python -m kdjax.main --config=configs/kd.py --workdir=w --config.compare=dk',
    'python -m kdjax.main --config=configs/kd.py --workdir=w --mode=distil',
    'python -m kdjax.reproduce --config=configs/kd.py --workdir=w --seed=3',
    'python -m kdjax.compare a b --dota=rows.csv',
    'python -m kdjax.serve a --prot=1',
    'python benchmarks/table.py --diir=a',
    'python -m pytest tests/test_nothing.py',
    'launch/nowhere.sh --config=configs/kd.py',
    'launch/local.sh --config=configs/kd.py --config.sed=1',
    "pip install '.[nothing]'",
    'docker build -f launch/File .',
    'kubectx',
  ],
)
def test_a_wrong_command_is_found(command, folder, monkeypatch):
  monkeypatch.chdir(folder)
  with pytest.raises((AssertionError, SystemExit, ValueError, flags.Error)):
    for program, *arguments in docs.shell(command, folder):
      _check(program, arguments, monkeypatch)


def _check(program, arguments, monkeypatch):
  """An error where the program would not take these arguments."""
  if program == 'python' and arguments[1] in OTHERS:
    assert all((docs.ROOT / a).exists() for a in arguments if a.startswith('tests'))
  elif program == 'python':
    found = docs.parse(arguments, monkeypatch)
    if 'config' in found:
      _settle(found['config'])
  elif program.endswith('.sh'):
    given = [a for a in arguments if a.startswith('--')]
    if given:
      docs.parse(['-m', 'kdjax.main', '--workdir=w', *given], monkeypatch)
  elif program == 'pip':
    _installable(arguments)
  elif program == 'ruff':
    assert arguments in (['check', '.'], ['format', '--check', '.'])
  else:
    files = [b for a, b in itertools.pairwise(arguments) if a == '-f']
    assert all((docs.ROOT / name).exists() for name in files if '/' in name)


def _settle(c):
  """What a config says beyond its fields' types: names of methods, values of switches."""
  from kdjax import env, runs
  from kdjax.grid import jobs

  if 'grid' in c:
    jobs.methods(c)
    return
  assert runs.order(c)
  env.settle(c)


def _installable(arguments):
  setup = configparser.ConfigParser()
  setup.read(docs.ROOT / 'setup.cfg')
  extras = setup['options.extras_require']
  for name in re.findall(r'\[([\w,]+)\]', ' '.join(arguments)):
    assert all(extra in extras for extra in name.split(',')), name
  if '-c' in arguments:
    assert (docs.ROOT / arguments[arguments.index('-c') + 1]).exists()


@every('json')
def test_json_is_json(block):
  json.loads(block.text)


@pytest.fixture(scope='module')
def work(tmp_path_factory):
  """A user's folder: reviews.csv, a toy teacher, and what README's own command makes of them."""
  folder = tmp_path_factory.mktemp('work')
  rng = np.random.default_rng(0)
  toy.file(folder / 'reviews.csv', rng, 160, ('review', 'stars'))
  toy.model(folder / 'base')
  (own,) = (b for b in docs.blocks('README.md', 'sh') if '=reviews.csv' in b.text)
  docs.shell(own.text, folder, TOY)
  return folder


def _exported(work, request):
  """What docs/export.md reads: the command there, of another student."""
  del request
  shutil.copytree(work / 'runs' / 'reviews', work / 'runs' / 'sst2')
  command = docs.blocks('docs/export.md', 'sh')[0].text.replace(':sst2', '')
  files = '--config.data.train=reviews.csv --config.data.text=review --config.data.label=stars'
  docs.shell(command, work, f'{TOY} {files} --config.export.formats=stablehlo,onnx')
  return {}


def _served(work, request):
  command = ('-m', 'kdjax.serve', f'{work}/runs/reviews/augpro/model', '--port=0', '--batch_size=2')
  return {'http://127.0.0.1:8000': request.getfixturevalue('started')(*command).url}


def _pickled(work, request):
  """DeBERTa-v3 is a folder on the hub; here, one of its kind."""
  del request
  pytest.importorskip('torch')
  own = dict(relative_attention=True, position_buckets=4, pos_att_type=['c2p', 'p2c'])
  toy.model(work / 'published', kind='DebertaV2', **own)
  return {'microsoft/deberta-v3-base': str(work / 'published')}


# What is there before the code of a page runs, and what of it has another name here.
BEFORE = {'docs/export.md': _exported, 'docs/serving.md': _served, 'docs/models.md': _pickled}


# Other tests do by default what they say.
LONG = ('docs/export.md', 'docs/models.md', 'docs/serving.md')


@pytest.mark.parametrize(
  'page',
  [
    pytest.param(page, marks=pytest.mark.slow if page in LONG else ())
    for page in docs.PAGES
    if page != ALONE and docs.blocks(page, 'python')
  ],
)
def test_the_python_of_a_page_runs(page, work, monkeypatch, request):
  names = BEFORE.get(page, lambda *_: {})(work, request)
  monkeypatch.chdir(work)
  space = {'base': base}  # README shows a part of kdjax/methods/kd.py
  for block in docs.blocks(page, 'python'):
    text = block.text
    for name, here in names.items():
      text = text.replace(name, here)
    exec(compile('\n' * block.line + text, page, 'exec'), space)


@pytest.mark.slow
def test_requests_that_are_shown_are_answered_as_shown(work, request):
  (url,) = _served(work, request).values()
  for asked, answered in zip(
    docs.blocks('docs/serving.md', 'sh')[1:3], docs.blocks('docs/serving.md', 'json'), strict=False
  ):
    (arguments,) = docs.shell(asked.text, work)
    path, body = arguments[1].removeprefix('http://127.0.0.1:8000'), arguments[-1]
    head = dict([arguments[arguments.index('-H') + 1].split(': ')])
    with urllib.request.urlopen(urllib.request.Request(url + path, body.encode(), head)) as file:
      found, shown = json.load(file)['predictions'], json.loads(answered.text)['predictions']
    assert [list(one) for one in found] == [list(one) for one in shown]
    assert all(sum(one['probabilities'].values()) <= 1.001 for one in found)


def _extended(folder):
  """A copy of the code with the files of docs/extend.md."""
  root = docs.copy(folder)
  for block in docs.blocks(ALONE, 'python'):
    first, _, text = block.text.partition('\n')
    if first.startswith('# '):
      path = root / first.removeprefix('# ')
      assert path.exists() or path.parent.name in ('methods', 'configs'), path
      path.write_text(f'{path.read_text()}\n\n{text}' if path.exists() else text)
  return root


# Of what is done for real.
LEFT_OUT = r'^.*(kdjax\.serve|pip install|activate|-m venv|-m sphinx).*$'
DONE = {
  'docs/guide.md': ('reviews/kd', 'reviews/augpro', 'reviews/export', 'seeds/kd/seed2'),
  ALONE: ('js_kd/js_kd', 'hide_words/hide_words'),
}


@pytest.mark.slow
@pytest.mark.parametrize('page', DONE)
def test_the_commands_of_a_page_do_what_it_says(page, work, tmp_path):
  """All of its blocks, in order, at toy size."""
  if page == ALONE:
    pytest.importorskip('torch')
  root, here = docs.ROOT, work
  if page == ALONE:  # in a checkout
    root = here = _extended(tmp_path)
    shutil.copytree(work / 'base', here / 'base')
    shutil.copy(work / 'reviews.csv', here)
  for block in docs.blocks(page, 'python', 'sh'):
    if block.kind == 'sh':
      docs.shell(re.sub(LEFT_OUT, '', block.text, flags=re.M), here, TOY, root)
    elif not block.text.startswith('# '):
      docs.run(block.text, here, root)
  for run in DONE[page]:
    assert any((here / 'runs' / run).glob('**/model.safetensors')), run


def _inline(page):
  tokens = markdown_it.MarkdownIt().enable('table').parse((docs.ROOT / page).read_text('utf8'))
  return [t.content for token in tokens for t in token.children or () if t.type == 'code_inline']


def test_fields_and_files_that_are_named_in_passing_are_there():
  from configs import common, grid

  known = common.config('docs', 'kd').to_dict() | dict(grid=grid.get_config('text').grid.to_dict())
  own = common.config('docs', 'kd').baselines.to_dict().values()
  known['method'] = {field: value for fields in own for field, value in fields.items()}
  for page in docs.PAGES:
    for code in _inline(page):
      for name in re.findall(r'(?<![\w/])config(?!\.json)((?:\.[a-z_][a-z_0-9]*)+)', code):
        assert _holds(known, name.split('.')[1:]), (page, code)
      for name in re.findall(r'(?:configs|kdjax|tests|benchmarks|launch)/[\w/]+\.\w+', code):
        made_up = re.search(r'/(mine|x)\.py$|js_kd', name)
        assert (docs.ROOT / name).exists() or made_up, (page, name)


def _holds(tree, parts) -> bool:
  return not parts or (parts[0] in tree and _holds(tree[parts[0]], parts[1:]))


def _logged():
  """Names of all metrics of every method as shipped, and with what else can be switched on."""
  from configs import common

  more = [('augpro', dict(hard_new=1.0)), ('mlm_kd', dict(weight=0.5))]
  batch, found = tiny.batch(np.random.default_rng(0)), set()
  shipped = common.config('docs', 'kd').baselines
  alone = [(name, {}) for name in methods.names()]  # the rest are of their parts
  for name, changes in alone + more:
    env, params = tiny.world(**tiny.HEADS.get(shipped[name].name, {}))
    c = shipped[name].copy_and_resolve_references()
    c.update(changes)
    found |= _of_game(methods.get(c.name)(c, env), params, batch)
  return found


def _of_game(method, params, batch):
  data = base.Data(np.arange(40), np.arange(40, dtype=np.int32) % 3, 8, 400)
  extra, memory = jax.eval_shape(lambda p: method.init(jax.random.key(0), p, data), params)
  shapes = params | extra, memory, batch, jax.random.key(0)
  outs = [jax.eval_shape(player.loss, *shapes) for player in method.players.values()]
  return {name for _, (_, metrics) in outs for name in metrics}


def test_every_metric_is_explained_and_none_that_is_not_there(work):
  text = (docs.ROOT / 'docs' / 'metrics.md').read_text('utf8')
  rows = re.findall(r'^\| (`[^|]+`) \|', text, re.M)
  explained = {name for row in rows for name in re.findall(r'`(\w+)`', row)}
  logged = _logged() | {'clamped', 'skipped', *metrics.METRICS, 'top1', 'perplexity'}
  for log in work.glob('runs/reviews/*/log.jsonl'):
    for line in log.read_text().splitlines():
      logged |= {name.rpartition('/')[2] for name in json.loads(line)} - {'step'}
  assert {name.removesuffix('_new') for name in logged - {'hard_new'}} | {'hard_new'} == explained
