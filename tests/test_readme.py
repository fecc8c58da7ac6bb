"""The README's code is the project's code."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


def test_the_method_shown_is_the_method_that_runs():
  blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S)
  (shown,) = [b for b in blocks if b.startswith('def make')]
  assert shown in (ROOT / 'kdjax' / 'methods' / 'kd.py').read_text()
  assert len(shown.splitlines()) <= 14


def test_every_file_and_config_it_names_exists():
  for page in ('README.md', 'docs/methods.md', 'launch/README.md'):
    text = (ROOT / page).read_text()
    for name in re.findall(r'\]\(((?:docs|launch)/[\w.]+)\)|--config=(configs/\w+\.py)', text):
      path = next(filter(None, name))
      assert (ROOT / path).exists() or path == 'configs/mine.py', (page, path)
