"""Signals and locks, in processes of their own."""

import os
import signal
import socket
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
  while (line := process.stdout.readline()) != 'ready\n':  # two hosts hear of each other first
    assert line, process.stderr.read()


HEAD = """
import sys, time
from kdjax import log, stop
log.setup()
stop.listen()
"""

# Saves for so many seconds, if any are named.
HELD = (
  HEAD
  + """
with stop.hold():
  print('ready', flush=True)
  while not stop.asked():
    time.sleep(0.01)
  time.sleep(float(*sys.argv[1:]))
  print('saved', flush=True)
  stop.point()
print('never')
"""
)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_outside_training_a_signal_ends_the_program_where_it_is(number):
  process = _start(HEAD + "print('ready', flush=True)\ntime.sleep(60)")
  _ready(process)
  process.send_signal(number)
  assert process.wait(10) == stop.CODE
  assert signal.Signals(number).name in process.stderr.read()


def test_held_signals_wait_for_the_next_safe_point():
  process = _start(HELD)
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


def test_a_launcher_that_passes_sigterm_on_twice_at_once_is_heard_once():
  process = _start(HELD, '1')
  _ready(process)
  process.send_signal(signal.SIGTERM)
  time.sleep(0.1)  # or the kernel makes one of two
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=10)
  assert out == 'saved\n' and process.returncode == stop.CODE


def test_where_python_hears_nothing_the_program_still_ends(tmp_path):
  # A C call that does not return: what compiling a large program looks like from outside.
  process = _start(
    HEAD
    + """
import ctypes
stop.GRACE = 0.5
with stop.hold():
  print('ready', flush=True)
  while True:
    ctypes.CDLL(None).poll(None, 0, 60000)
"""
  )
  _ready(process)
  began = time.monotonic()
  process.send_signal(signal.SIGTERM)
  assert process.wait(20) == stop.CODE
  assert time.monotonic() - began < 15
  assert 'No safe point within 0.5 s: the last checkpoint stands.\n' in process.stderr.read()


HOSTS = (
  """
import sys, time
import jax, numpy as np
rank = int(sys.argv[2])
jax.distributed.initialize(f'localhost:{sys.argv[1]}', 2, rank)
"""
  + HEAD
  + """
mesh = jax.make_mesh((jax.device_count(),), ('rows',))
rows = jax.NamedSharding(mesh, jax.P('rows'))
x = jax.make_array_from_process_local_data(rows, np.ones(jax.local_device_count(), np.float32))
total = jax.jit(lambda x: x.sum(), out_shardings=jax.NamedSharding(mesh, jax.P()))
with stop.hold():
  for step in range(100_000):
    y = total(x)  # of all hosts; one that has left is waited for
    if step % 10 == 0:  # between these one host is ahead of the other, as in training
      assert float(y) == jax.device_count()
    time.sleep(0.002 + 0.01 * rank)
    if step == 20:
      print('ready', flush=True)
    if stop.agreed():
      print(step, flush=True)
      stop.point()
"""
)


@pytest.mark.slow
@pytest.mark.parametrize('rank, number', [(0, signal.SIGTERM), (1, signal.SIGINT)])
def test_of_two_hosts_one_is_told_and_both_stop_after_the_same_step(rank, number):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = str(free.getsockname()[1])
  hosts = [_start(HOSTS, port, str(n)) for n in range(2)]
  try:
    for host in hosts:
      _ready(host)
    hosts[rank].send_signal(number)
    (one, _), (two, _) = (host.communicate(timeout=120) for host in hosts)
  finally:
    for host in hosts:
      host.kill()
  assert [host.returncode for host in hosts] == [stop.CODE] * 2
  assert one == two and int(one) > 20


def test_hosts_find_each_other_by_a_file_that_is_closed(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, 'PATIENCE', 0.0)
  here, elsewhere = (tmp_path / name for name in ('here', 'elsewhere'))
  with lock.of(here), lock.of(elsewhere):
    before, word = lock.sign(here), lock.sign(here)
    opened = {os.path.realpath(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')}
    assert str(here / lock.FILE) in opened and str(here / lock.HOLDER) not in opened
    lock.check_shared(here, word)
    for folder, said in ((here, before), (elsewhere, word)):  # an earlier start; another folder
      with pytest.raises(ValueError, match='is not the folder that the first host writes to'):
        lock.check_shared(folder, said)


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
