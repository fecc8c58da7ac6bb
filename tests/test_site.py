"""The documentation as a site: every page, every docstring, every link."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

from tests import test_architecture

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """The folder of the built site; a warning, a link to nothing among them, is an error."""
  if not importlib.util.find_spec('furo'):
    pytest.skip("pip install -c constraints.txt -e '.[docs]'")
  out = tmp_path_factory.mktemp('site')
  command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-c', 'docs', '.']
  command += [str(out), '-d', str(tmp_path_factory.mktemp('doctrees'))]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return out


def test_all_pages_are_there_and_each_is_in_the_navigation(site):
  first = (site / 'docs' / 'index.html').read_text('utf8')
  pages = [f'{path.stem}.html' for path in ROOT.glob('docs/*.md')]
  pages += ['../README.html', '../launch/README.html']
  assert all(f'href="{page}"' in first for page in pages if page != 'index.html')
  assert 'docs/index.html' in (site / 'index.html').read_text('utf8')


def test_no_page_loads_anything_from_elsewhere(site):
  loads = re.compile(r'<(script|link|img)[^>]+(src|href)="https?:')
  assert not [page for page in site.rglob('*.html') if loads.search(page.read_text('utf8'))]


def test_what_users_may_rely_on_is_described(site):
  text = (site / 'docs' / 'api.html').read_text('utf8')
  for name in (
    'load', 'predict.Classifier', 'models.hf.load', 'models.hf.save', 'net.split', 'net.Net',
    'net.Out', 'env.Env', 'methods.get', 'methods.base.Method', 'methods.base.Player',
    'losses.soft_kl', 'losses.info_nce', 'augment.mixup', 'augment.nearest_token', 'train.fit',
  ):  # fmt: skip
    assert f'id="kdjax.{name}"' in text, name


def test_arrows_of_the_picture_are_imports():
  picture = (ROOT / 'docs' / 'architecture.svg').read_text('utf8')
  arrows = re.findall(r'data-from="(\w+)" data-to="(\w+)"', picture)
  assert len(arrows) > 15
  for a, b in arrows:
    assert b in test_architecture.ARROWS[a] and f'>{a}</text>' in picture, (a, b)


def test_errors_that_are_explained_are_those_that_are_said():
  source = '\n'.join(path.read_text('utf8') for path in (ROOT / 'kdjax').rglob('*.py'))
  source = re.sub(r"""['"]\s*\n\s*f?['"]""", '', source)
  said = re.findall(r'^\| `([^`]+)` \|', (ROOT / 'docs' / 'trouble.md').read_text('utf8'), re.M)
  assert len(said) > 15
  assert not [words for words in said if words not in source]
