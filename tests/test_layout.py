"""What compiled steps of RoBERTa-large -> DistilRoBERTa hold and send, on 8 and 64 devices.

From shapes alone, in processes of their own. By default with 4 layers of the teacher's 24; all of
them take minutes: pytest -m slow tests/test_layout.py
"""

import functools
import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
V, WIDE, NARROW = 50_265, 1024, 768


@functools.cache
def _step(**flags):
  """A compiled step's numbers, from benchmarks/layout.py."""
  command = [sys.executable, 'benchmarks/layout.py', '--json']
  command += [f'--{k}={v}' for k, v in flags.items()]
  env = os.environ | dict(PYTHONPATH=str(ROOT))
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout)


def _sizes(layers: int, width: int) -> tuple[int, int]:
  """(numbers in kernels, in the word table) of an encoder with a classifier."""
  return layers * 12 * width**2 + width**2 + 2 * width, V * width


def _gathered(found) -> list[tuple[int, tuple[int, ...]]]:
  """(times, shape) of each all-gather."""
  rows = found['collectives'].get('all-gather', [])
  shapes = ((n, s.partition('[')[2].strip(']').split(',')) for n, ss, _ in rows for s in ss)
  return [(n, tuple(int(x) for x in s if x)) for n, s in shapes]


def _split(layers, devices, **more):
  return _step(layers=layers, devices=devices, fsdp=8, whole='student', **more)


def _check_bytes(layers: int, **more):
  """The teacher is an eighth, the student and its optimizer are whole, nothing else is there."""
  kernels, words = _sizes(layers, WIDE)
  vectors = (514 + 1 + 2 + 13 * layers) * WIDE + WIDE + 2
  student, table = _sizes(max(layers // 4, 1), NARROW)
  own = student + table + (514 + 1 + 2 + 13 * max(layers // 4, 1)) * NARROW + NARROW + 2
  want = 4 * ((kernels + words) / 8 + vectors + 3 * own)
  for devices in (8, 64):
    found = _split(layers, devices, **more)
    assert found['held'] == pytest.approx(want, rel=1e-4)
    if 'arguments' in found:
      assert found['arguments'] == pytest.approx(want, rel=1e-3)  # and a batch


def test_a_device_holds_an_eighth_of_the_teacher_at_full_depth():
  _check_bytes(24, nocompile='')


def test_the_compiled_step_takes_what_the_table_says():
  _check_bytes(4)


def test_no_temporary_grows_with_the_devices():
  few, many = (_split(4, devices)['temporary'] for devices in (8, 64))
  assert many < 1.02 * few


def test_kd_gathers_each_kernel_of_the_teacher_once_and_no_table():
  for devices in (8, 64):
    found = _gathered(_split(4, devices))
    assert not [shape for _, shape in found if V in shape]
    kernels, _ = _sizes(4, WIDE)
    square = sum(n * math.prod(s) for n, s in found if min(s, default=0) >= WIDE)
    assert square == kernels - 2 * WIDE  # the last one, of two classes, is small
