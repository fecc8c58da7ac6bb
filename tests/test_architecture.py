"""Imports go one way, and a bare import stays light."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Who may import whom, inside kdjax. What is not here may be imported by everything above it.
ARROWS = {
  'quote': set(),
  'losses': set(),
  'augment': set(),
  'projection': {'augment'},
  'metrics': set(),
  'log': set(),
  'progress': set(),
  'usage': set(),
  'optim': set(),
  'checkpoint': {'hosts', 'log', 'report'},
  'guard': {'hosts', 'log', 'seeds'},
  'seeds': {'log'},
  'stop': {'log', 'progress'},
  'lock': set(),
  'allocator': set(),
  'distributed': set(),
  'hosts': set(),
  'sharding': set(),
  'feed': {'sharding', 'data'},
  'net': {'sharding'},
  'tasks': {'losses', 'metrics'},
  'models': {'models', 'net', 'quote'},
  'data': {'data', 'progress', 'quote', 'tasks'},
  'methods': {'methods', 'losses', 'augment', 'projection'},
  'evaluate': {'metrics', 'seeds', 'sharding', 'stop', 'data'},
  'answers': {'evaluate', 'hosts', 'log', 'quote', 'report', 'sharding', 'data', 'methods'},
  'masked': {'evaluate', 'net', 'data', 'methods'},
  'refit': {'net'},
  'roles': {'net', 'tasks', 'models'},
  'unlabelled': {'tasks', 'data'},
  'env': {'guard', 'hosts', 'net', 'roles', 'sharding', 'tasks', 'unlabelled', 'data', 'models'},
  'train': {
    'checkpoint', 'data', 'feed', 'guard', 'hosts', 'log', 'methods', 'optim', 'progress',
    'seeds', 'sharding', 'stop',
  },
  'rowwise': {'data', 'hosts', 'log', 'progress', 'quote', 'report'},
  'predict': {'data', 'evaluate', 'log', 'metrics', 'models', 'net', 'quote', 'rowwise',
    'sharding', 'tasks',
  },
  'report': set(),
  'runs': {'report'},
  'staging': {
    'answers', 'data', 'doubts', 'env', 'evaluate', 'log', 'masked', 'methods', 'metrics', 'net',
    'roles', 'runs', 'sharding', 'train',
  },
  'jobs': {
    'data', 'env', 'evaluate', 'hosts', 'log', 'masked', 'methods', 'net', 'refit', 'report',
    'roles', 'runs', 'seeds', 'sharding', 'staging', 'train', 'unlabelled',
  },
  'inference': {
    'env', 'hosts', 'log', 'predict', 'report', 'roles', 'runs', 'seeds', 'sharding', 'staging',
  },
  'doubts': {'metrics', 'tasks'},
  'estimate': {
    'data', 'env', 'evaluate', 'feed', 'methods', 'runs', 'sharding', 'staging', 'train',
  },
  'dry': {'data', 'env', 'estimate', 'hosts', 'runs', 'staging'},
  'formats': {'data', 'net'},
  'exports': {
    'data', 'env', 'evaluate', 'formats', 'hosts', 'inference', 'models', 'net', 'report', 'runs',
    'tasks',
  },
  'main': {
    'allocator', 'distributed', 'dry', 'exports', 'hosts', 'inference', 'jobs', 'lock', 'log',
    'progress', 'quote', 'runs', 'stop', 'usage',
  },
  'grid': {
    'data', 'env', 'evaluate', 'grid', 'hosts', 'jobs', 'log', 'methods', 'metrics', 'report',
    'runs', 'staging', 'tasks', 'unlabelled',
  },
  'reproduce': {'data', 'grid', 'hosts', 'jobs', 'lock', 'log', 'main', 'report', 'usage'},
  'batching': set(),
  'service': {'batching', 'log', 'quote'},
  'serve': {
    'allocator', 'batching', 'log', 'main', 'predict', 'service', 'usage',
  },
  'compare': {'data', 'evaluate', 'grid', 'predict', 'quote', 'report'},
  '__init__': {'predict'},
}  # fmt: skip


def _imports(path: pathlib.Path) -> set[str]:
  """Top-level parts of kdjax that a file imports, anywhere in it."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text(encoding='utf8'))):
    if isinstance(node, ast.ImportFrom) and node.level:
      pytest.fail(f'{path}: relative import')
    if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'kdjax':
      parts = node.module.split('.')[1:]
      found |= {parts[0]} if parts else {alias.name for alias in node.names}
    if isinstance(node, ast.Import):
      names = [a.name.split('.') for a in node.names if a.name.startswith('kdjax.')]
      found |= {name[1] for name in names}
  return found


def test_imports_follow_the_arrows():
  files = sorted((ROOT / 'kdjax').rglob('*.py'))
  assert len(files) > 25
  for path in files:
    part = path.relative_to(ROOT / 'kdjax').parts[0].removesuffix('.py')
    assert part in ARROWS, f'{part} has no arrows yet'
    assert _imports(path) <= ARROWS[part], path


def test_methods_import_neither_models_nor_configs_nor_the_mesh():
  for path in (ROOT / 'kdjax' / 'methods').glob('*.py'):
    tree = ast.parse(path.read_text(encoding='utf8'))
    outside = {
      (n.module or '').split('.')[0] if isinstance(n, ast.ImportFrom) else n.names[0].name
      for n in ast.walk(tree)
      if isinstance(n, (ast.Import, ast.ImportFrom))
    }
    allowed = {'kdjax', 'jax', 'jax.numpy', 'typing', 'collections', 'importlib', 'pathlib'}
    assert outside <= allowed, path


def test_configs_import_neither_kdjax_nor_jax():
  for path in (ROOT / 'configs').glob('*.py'):
    tree = ast.parse(path.read_text(encoding='utf8'))
    for node in ast.walk(tree):
      if isinstance(node, (ast.Import, ast.ImportFrom)):
        names = [a.name for a in node.names]
        module = getattr(node, 'module', None) or names[0]
        assert module in ('ml_collections', 'configs', 'importlib', 'pathlib'), (path, module)


def test_no_default_hides_outside_the_configs():
  for path in (ROOT / 'kdjax').rglob('*.py'):
    source = path.read_text(encoding='utf8')
    assert 'c.get(' not in source and 'config.get(' not in source, path


@pytest.mark.parametrize(
  'module, heavy',
  [
    ('kdjax', ('jax', 'transformers', 'datasets')),
    ('kdjax.jobs', ()),
    ('kdjax.predict', ()),
    ('kdjax.methods.augpro', ('transformers',)),
  ],
)
def test_imports_pull_in_neither_torch_nor_tensorflow(module, heavy):
  names = ('torch', 'tensorflow', 'datasets', 'tensorflow_datasets', *heavy)
  code = f'import sys, {module}; print([n for n in {names} if n in sys.modules])'
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True
  )
  assert out.stdout.strip() == '[]'
