"""Whole runs that are killed, told to stop, robbed of files and of disk; minutes long.

python -m pytest -m slow tests/test_faults.py; KDJAX_FAULTS is how often each run dies (20).
"""

import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from kdjax import stop
from tests import tiny, toy

FAULTS = int(os.environ.get('KDJAX_FAULTS', 20))
_HERE = pathlib.Path(__file__).parent.parent


def _start(name: str, folder: pathlib.Path, workdir: pathlib.Path) -> subprocess.Popen:
  # Restarts find their programs compiled; one device.
  flags = '--xla_backend_optimization_level=0'
  env = os.environ | dict(JAX_COMPILATION_CACHE_DIR=str(folder / 'xla'), XLA_FLAGS=flags)
  command = [sys.executable, '-m', 'tests.toy_run', name, str(folder), str(workdir)]
  return subprocess.Popen(
    command, cwd=_HERE, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
  )


def _finish(process: subprocess.Popen) -> None:
  _, said = process.communicate(timeout=600)
  assert process.returncode == 0, said.decode()[-2000:]


def _rows(workdir: pathlib.Path) -> int:
  return sum(len(p.read_text().splitlines()) for p in workdir.glob('*/log.jsonl'))


def _rob(workdir: pathlib.Path, rng: random.Random) -> bool:
  """Cut or change a file of the newest checkpoint of a run that has an older one."""
  steps = {}
  for path in workdir.glob('*/checkpoints/last/[0-9]*'):
    if path.name.isdigit() and (path.parent / f'sums.{path.name}.json').exists():
      steps.setdefault(path.parent, []).append(int(path.name))
  steps = {where: found for where, found in steps.items() if len(found) > 1}
  if not steps:
    return False
  where, found = rng.choice(sorted(steps.items()))
  files = [p for p in (where / str(max(found))).rglob('*') if p.is_file() and p.stat().st_size]
  victim = rng.choice(sorted(files))
  data = bytearray(victim.read_bytes())
  place = rng.randrange(len(data))
  data[place] ^= 1 << rng.randrange(8)
  victim.write_bytes(data if rng.random() < 0.5 else data[:place])
  return True


@pytest.mark.slow
@pytest.mark.parametrize('name', ['kd', 'mate_kd'])
def test_a_run_whose_disk_is_full_for_a_while_ends_the_same(tmp_path, name):
  whole, folder, work = tmp_path / 'whole', tmp_path / 'data', tmp_path / 'work'
  _finish(_start(name, folder, whole))
  process = _start(name, folder, work)
  first = work / name / 'checkpoints/last/sums.3.json'
  while process.poll() is None and not first.exists():
    time.sleep(0.002)
  # A row of the log can still be written, a checkpoint's arrays cannot.
  _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
  said = b''
  while b'next attempt' not in said and (more := os.read(process.stderr.fileno(), 4096)):
    said += more
  assert b'was not written' in said
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
  _finish(process)  # itself: nobody has to start it again
  assert toy.left(work) == toy.left(whole)


@pytest.mark.slow
@pytest.mark.parametrize('name', tiny.config_names())
def test_whatever_happens_to_a_run_it_ends_the_same(rng, tmp_path, name):
  chance = random.Random(int(rng.integers(1 << 30)))
  whole, folder = tmp_path / 'whole', tmp_path / 'data'
  _finish(_start(name, folder, whole))
  began = time.monotonic()
  shutil.rmtree(whole)
  _finish(_start(name, folder, whole))  # compiled now: how long a run takes
  seconds, rows = time.monotonic() - began, _rows(whole)
  work, count = tmp_path / 'work', dict(killed=0, stopped=0, finished=0, robbed=0)
  for n in range(FAULTS):
    process = _start(name, folder, work)
    # Half by the clock, through imports, tokens and programs; half in the midst of training.
    moment, seen = time.monotonic() + chance.uniform(0.1, seconds), chance.randint(1, rows)
    there = _rows(work)
    while process.poll() is None and time.monotonic() < began + 1e4:
      if time.monotonic() > moment if n % 2 else _rows(work) > min(there + seen % 4, rows - 1):
        break
      time.sleep(0.01)
    if process.poll() is not None:
      _finish(process)
      count['finished'] += 1
      shutil.rmtree(work)  # the next fault wants a run
      continue
    if chance.random() < 0.5:
      process.kill()
      process.communicate()
      count['killed'] += 1
    else:
      process.send_signal(signal.SIGTERM)
      _, said = process.communicate(timeout=60)
      # Before the program listens, SIGTERM does what it does everywhere; at its end, nothing.
      assert process.returncode in (stop.CODE, -signal.SIGTERM, 0), said.decode()[-2000:]
      count['stopped'] += 1
    if chance.random() < 0.25:
      count['robbed'] += _rob(work, chance)
  _finish(_start(name, folder, work))
  print(name, count)
  assert toy.left(work) == toy.left(whole), count
  assert count['killed'] + count['stopped'] >= FAULTS // 2
