"""What compiled steps of RoBERTa-large -> DistilRoBERTa hold and send, on 8 and 64 devices.

From shapes alone, in processes of their own; 4 layers of the teacher's 24, and all of them.
Most take a minute or more: pytest -m slow tests/test_layout.py
"""

import functools
import json
import math
import pathlib
import subprocess
import sys

import pytest

from kdjax import augment

ROOT = pathlib.Path(__file__).parent.parent
V, WIDE, NARROW = 50_265, 1024, 768


@functools.cache
def _step(**flags):
  """A compiled step's numbers, from benchmarks/layout.py."""
  command = [sys.executable, '-m', 'benchmarks.layout', '--json']
  command += [f'--{k}={v}' for k, v in flags.items()]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
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
  _check_bytes(24, compile=False)


@pytest.mark.slow
def test_the_compiled_step_takes_what_the_table_says():
  _check_bytes(4)


@pytest.mark.slow
def test_no_temporary_grows_with_the_devices():
  few, many = (_split(4, devices)['temporary'] for devices in (8, 64))
  assert many < 1.02 * few


@pytest.mark.slow
def test_kd_gathers_each_kernel_of_the_teacher_once_and_no_table_of_it():
  for devices in (8, 64):
    found = _gathered(_split(4, devices))
    kernels, _ = _sizes(4, WIDE)
    square = sum(n * math.prod(s) for n, s in found if min(s, default=0) >= WIDE)
    assert square == kernels - 2 * WIDE  # the last one, of two classes, is small
    # Of tables, the student's gradient: computed in parts by width, whole where it is added.
    assert [(n, s) for n, s in found if V in s] == [(1, (V, NARROW))]


@pytest.mark.slow
def test_a_projection_gathers_nothing_of_a_whole_table_and_a_split_one_by_blocks():
  kd, whole = (_gathered(_split(4, 8, **how)) for how in ({}, dict(method='augpro')))
  assert _large(whole) == _large(kd)
  split = _gathered(_step(layers=4, devices=8, fsdp=8, method='augpro'))
  blocks = -(-V // augment._BLOCK)
  # Once for radii of tokens that were not met before, once for what is not proved by them; each
  # only in steps that have any.
  assert (2 * blocks, (augment._BLOCK, NARROW)) in split
  assert not [s for _, s in split if V in s]


def _large(gathered) -> list:
  return [(n, s) for n, s in gathered if math.prod(s) > 2**18]


@pytest.mark.slow
def test_a_step_of_tensor_parallel_devices_sends_activations_where_it_sent_kernels():
  """Of the teacher: two all-reduces a block, of its rows, and kernels gathered by halves."""
  found = _step(layers=4, devices=8, fsdp=4, tensor=2)
  shapes = [s for _, s in _gathered(found)]
  assert (WIDE, 4 * WIDE) not in shapes and (WIDE, 2 * WIDE) in shapes
  sums = found['collectives']['all-reduce']
  # Rows of 8 texts of 128; WIDE as they happen to be, and no kernel of the teacher is added up.
  assert sum(n * ss.count(f'f32[{8 * 128},{WIDE}]') for n, ss, _ in sums) == 2 * 4


@pytest.mark.slow
def test_drawn_text_gathers_each_table_once_and_no_device_sees_all_rows():
  found = _step(layers=4, devices=8, fsdp=8, method='mate_kd', player='generator')
  # The generator decodes by its table; the soft draws get their gradient from student's and
  # teacher's. Each is gathered with the words along its second axis.
  tables = sorted((n, s) for n, s in _gathered(found) if V in s)
  assert tables == [(1, (WIDE, V)), (2, (NARROW, V))]
  every = [s for rows in found['collectives'].values() for _, ss, _ in rows for s in ss]
  assert not [s for s in every if s.startswith(('f32[64,128,', f'f32[{64 * 128},'))]


@pytest.mark.slow
def test_at_full_depth_too():
  _check_bytes(24)
  few, many = (_split(24, devices)['temporary'] for devices in (8, 64))
  assert many < 1.02 * few
