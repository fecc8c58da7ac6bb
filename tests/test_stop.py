"""Signals and locks, in processes of their own."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from kdjax import lock, stop


def _start(code: str, *args: str) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(code), *args],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


def _ready(process: subprocess.Popen) -> None:
  assert process.stdout.readline() == 'ready\n', process.stderr.read()


HEAD = """
import sys, time
from kdjax import log, stop
log.setup()
stop.listen()
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_outside_training_a_signal_ends_the_program_where_it_is(number):
  process = _start(HEAD + "print('ready', flush=True)\ntime.sleep(60)")
  _ready(process)
  process.send_signal(number)
  assert process.wait(10) == stop.CODE
  assert signal.Signals(number).name in process.stderr.read()


def test_held_signals_wait_for_the_next_safe_point():
  process = _start(
    HEAD
    + """
with stop.hold():
  print('ready', flush=True)
  while not stop.asked():
    time.sleep(0.01)
  print('saved', flush=True)
  stop.point()
print('never')
"""
  )
  _ready(process)
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=10)
  assert out == 'saved\n' and process.returncode == stop.CODE


def test_a_second_signal_ends_it_at_once_whatever_it_holds():
  process = _start(
    HEAD
    + """
with stop.hold(), stop.saving():
  print('ready', flush=True)
  while not stop.asked():
    time.sleep(0.01)
  print('ready', flush=True)
  time.sleep(60)
"""
  )
  _ready(process)
  process.send_signal(signal.SIGINT)
  _ready(process)
  process.send_signal(signal.SIGINT)
  assert process.wait(10) == stop.CODE


def test_where_python_hears_nothing_the_program_still_ends(tmp_path):
  # A C call that does not return: what compiling a large program looks like from outside.
  process = _start(
    HEAD
    + """
import ctypes
stop.GRACE = 0.5
print('ready', flush=True)
with stop.hold():
  while True:
    ctypes.CDLL(None).poll(None, 0, 60000)
"""
  )
  _ready(process)
  began = time.monotonic()
  process.send_signal(signal.SIGTERM)
  assert process.wait(20) == stop.CODE
  assert time.monotonic() - began < 15


def test_one_process_at_a_time_in_a_workdir(tmp_path):
  code = """
import pathlib, sys, time
from kdjax import lock
with lock.of(pathlib.Path(sys.argv[1])):
  print('ready', flush=True)
  time.sleep(60)
"""
  process = _start(code, str(tmp_path))
  _ready(process)
  said = rf'{tmp_path} is in use by process {process.pid}'
  with pytest.raises(ValueError, match=said), lock.of(tmp_path):
    pass
  process.kill()  # however it ends
  process.wait()
  with lock.of(tmp_path):
    assert (tmp_path / lock.FILE).read_text() == str(os.getpid())
