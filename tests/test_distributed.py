"""Processes find each other through the flag's function."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import pytest

from kdjax import distributed

ROOT = pathlib.Path(__file__).parent.parent


def test_a_flag_says_one_process_or_which_of_how_many():
  assert distributed.parse('') is None
  assert distributed.parse('auto') == {}
  want = dict(coordinator_address='10.0.0.1:1234', num_processes=4, process_id=3)
  assert distributed.parse('10.0.0.1:1234,4,3') == want
  assert distributed.parse('[::1]:1234,1,0')['coordinator_address'] == '[::1]:1234'


@pytest.mark.parametrize(
  'value, said',
  [
    ('Auto', "not 'Auto'"),
    ('host,2,0', "not 'host,2,0'"),
    ('host:1234', "not 'host:1234'"),
    ('host:1234,2', "not 'host:1234,2'"),
    ('host:1234,2,-1', "not 'host:1234,2,-1'"),
    ('host:1234,two,0', "not 'host:1234,two,0'"),
    ('host:70000,2,0', 'the port of'),
    ('host:1234,2,2', 'of 2 processes none has id 2'),
    ('host:1234,0,0', 'of 0 processes none has id 0'),
  ],
)
def test_a_wrong_flag_is_said_with_what_is_right(value, said):
  with pytest.raises(ValueError, match='host:port,count,id') as e:
    distributed.start(value)
  assert said in str(e.value)


def test_outside_a_cluster_auto_says_what_to_give(monkeypatch):
  def initialize():
    raise ValueError('coordinator_address should be defined.')

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  with pytest.raises(ValueError, match=r'=auto: coordinator_address .* host:port,count,id'):
    distributed.start('auto')


@pytest.mark.slow  # both import jax and compile: 15 s on two busy cores
def test_two_processes_are_one_run():
  code = (
    'import sys; from kdjax import distributed; distributed.start(sys.argv[1])\n'
    'import jax; from jax.experimental import multihost_utils\n'
    'ids = multihost_utils.process_allgather(jax.numpy.array([jax.process_index()]))\n'
    'print(jax.process_count(), jax.device_count(), ids.ravel().tolist())'
  )
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu'}
  both = [
    subprocess.Popen(
      [sys.executable, '-c', code, f'localhost:{port},2,{i}'],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )
    for i in range(2)
  ]  # fmt: skip
  try:
    for process in both:
      out, err = process.communicate(timeout=120)
      assert process.returncode == 0, err
      assert out.splitlines()[-1] == '2 2 [0, 1]'
  finally:
    for process in both:
      process.kill()
