"""on_tpu.sh: a command that outlives the connection that started it."""

import os
import shutil
import signal
import time

import pytest


def _on_tpu(commands, home, *arguments):
  done = commands.run('on_tpu.sh', *arguments, HOME=str(home))
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


needs_flock = pytest.mark.skipif(not shutil.which('flock'), reason='flock is of Linux')


@needs_flock
def test_on_a_tpu_a_command_outlives_who_started_it_and_leaves_its_status(commands, tmp_path):
  here = (commands, tmp_path)
  assert _on_tpu(*here, 'status') == 'none'
  _on_tpu(*here, 'start', 'bash', '-c', 'sleep 0.5; echo "$0"; exit 75', 'a  b')
  assert _on_tpu(*here, 'status') == 'running'
  _on_tpu(*here, 'start', 'echo', 'a second')  # is not
  assert _on_tpu(*here, 'follow') == 'a  b'
  assert _on_tpu(*here, 'status') == '75'
  _on_tpu(*here, 'start', 'false')
  assert 'a second' not in _on_tpu(*here, 'follow')
  assert _on_tpu(*here, 'status') == '1'


@needs_flock
def test_on_a_tpu_the_last_lines_of_a_command_are_shown_even_of_one_that_has_ended(
  commands, tmp_path
):
  for word in 'abc':  # what has ended before anyone follows
    _on_tpu(commands, tmp_path, 'start', 'echo', word)
    assert _on_tpu(commands, tmp_path, 'follow').split()[-1] == word
  _on_tpu(commands, tmp_path, 'start', 'bash', '-c', 'sleep 0.2; seq 20000')
  assert _on_tpu(commands, tmp_path, 'follow').split()[-1] == '20000'


@needs_flock
def test_on_a_tpu_a_run_is_stopped_and_one_that_was_cut_off_is_started_again(commands, tmp_path):
  here = (commands, tmp_path)
  _on_tpu(
    *here, 'start', 'bash', '-c', 'trap "exit 75" TERM; echo on; while :; do sleep 0.05; done'
  )
  while 'on' not in (tmp_path / 'run/log').read_text():
    time.sleep(0.02)
  _on_tpu(*here, 'stop')
  _on_tpu(*here, 'follow')
  assert (tmp_path / 'run/status').read_text() == '75\n'
  assert _on_tpu(*here, 'status') == '143'  # a person did it
  _on_tpu(*here, 'start', 'sleep', '60')
  leader = int((tmp_path / 'run/pid').read_text())
  while os.getpgid(leader) != leader:
    time.sleep(0.02)
  os.killpg(leader, signal.SIGKILL)
  _on_tpu(*here, 'follow')
  assert not (tmp_path / 'run/status').exists()
  assert _on_tpu(*here, 'status') == '75'
