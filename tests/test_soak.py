"""A long run holds at its end what it held after its first steps; minutes long.

python -m pytest -m slow -s tests/test_soak.py; KDJAX_SOAK is how many steps (10,000).
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.soak_run import EVERY

STEPS = int(os.environ.get('KDJAX_SOAK', 10_000))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['kd', 'mate_kd', 'codir'])
def test_a_long_run_holds_no_more_memory_or_files_than_a_short_one(tmp_path, name):
  done = subprocess.run(
    [sys.executable, '-m', 'tests.soak_run', name, str(tmp_path), str(STEPS)],
    cwd=pathlib.Path(__file__).parent.parent,
    env=os.environ | dict(XLA_FLAGS=''),  # one device
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"memory"')]
  assert len(rows) == STEPS // EVERY
  warm = rows[len(rows) // 5 :]  # caches and pools are filled by then
  few = max(1, len(warm) // 8)
  ends = warm[:few], warm[-few:]
  first, last = ({k: np.median([row[k] for row in end]) for k in warm[0]} for end in ends)
  said = ', '.join(f'{k} {first[k]:,.0f} to {last[k]:,.0f}' for k in first)
  print(f'\n{name}, {STEPS} steps: {said}')
  steps = EVERY * (len(warm) - few)
  # A KiB or an object that each step leaves behind would be twice that. Of a checkpoint some 60 KiB
  # stay: TensorStore (0.1.86) does not let go of specs and counters that Orbax asks it for.
  spare = dict(memory=steps / 2, objects=steps / 2, files=2, threads=4, arrays=2)
  assert all(last[k] - first[k] <= spare[k] for k in spare), said
