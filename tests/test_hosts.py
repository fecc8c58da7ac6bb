"""Whole runs over several processes, which are what hosts are to jax."""

import importlib
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from kdjax import hosts, inference, jobs, runs, stop
from kdjax.data import batches
from tests import tiny, toy

ROOT = pathlib.Path(__file__).parent.parent


class Service:
  """jax's, of threads instead of processes; a number is the thread's name."""

  num_processes = 3

  def __init__(self):
    self.client, self._said, self._new = self, {}, threading.Condition()

  @property
  def process_id(self) -> int:
    return int(threading.current_thread().name)

  def key_value_set(self, key, value):
    with self._new:
      self._said[f'{key} {self.process_id}'] = value
      self._new.notify_all()

  def blocking_key_value_get(self, key, milliseconds):
    key = f'{key} {key.rpartition("/")[2]}'
    with self._new:
      assert self._new.wait_for(lambda: key in self._said, milliseconds / 1000)
      return self._said[key]


@pytest.fixture
def together(monkeypatch):
  """Calls a function at three hosts: what each returns, or raises."""
  service, counts = Service(), [itertools.count() for _ in range(3)]

  class Meetings:
    def __next__(self):
      return next(counts[service.process_id])

  monkeypatch.setattr(hosts, 'service', service)
  monkeypatch.setattr(hosts, '_meetings', Meetings())
  monkeypatch.setattr(hosts, 'FOREVER', 10.0)

  def call(function):
    found = [None] * 3

    def one(n):
      try:
        found[n] = function(n)
      except BaseException as e:
        found[n] = e

    threads = [threading.Thread(target=one, args=(n,), name=str(n)) for n in range(3)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    return found

  return call


def test_hosts_meet_in_order_and_take_the_first_ones_word(together):
  assert together(lambda n: hosts.meet(n * 10)) == [[0, 10, 20]] * 3
  assert together(lambda n: hosts.agree(lambda: ['of', n])) == [['of', 0]] * 3
  order = []

  def turn(n):
    with hosts.in_turn():
      time.sleep(0.05 * (n == 0))
      order.append(n)

  together(turn)
  assert order[0] == 0 and sorted(order) == [0, 1, 2]


def test_what_hosts_do_not_agree_on_is_named_by_all_of_them(together):
  facts = [dict(a=1, b='x', c=None), dict(a=1, b='y', c=None), dict(a=1, b='x', c=None)]
  assert together(lambda n: hosts.same(facts[0])) == [None] * 3
  found = together(lambda n: hosts.same(facts[n]))
  assert len(set(map(str, found))) == 1 and isinstance(found[0], ValueError)
  assert "do not agree: b is 'x' of processes 0, 2, 'y' of process 1. Start" in str(found[0])


def test_an_error_at_one_host_reaches_those_that_wait_for_it(together):
  def work(n):
    if n == 1:
      return hosts.fail('no such file')
    with hosts.in_turn():
      pass

  found = together(work)
  assert found[1] is None
  for n in (0, 2):
    assert isinstance(found[n], hosts.Elsewhere)
    assert str(found[n]) == 'error: process 1: no such file'


def test_a_host_builds_its_own_rows_of_the_batches_that_all_plan(rng):
  data = tiny.dataset(rows=50)
  ids = rng.integers(5, tiny.VOCAB, (50, 8)).astype(np.int32)
  length = rng.integers(1, 9, 50).astype(np.int32)
  data = data._replace(tokens=batches.ids.Tokens(ids, 0 * ids, length))
  own = np.array([1, 2, 5])
  for make in (
    lambda *a: itertools.islice(batches.train_batches(data, 6, (4, 8), 0, 3, *a), 12),
    lambda *a: (batch for batch, _ in batches.eval_batches(data, 6, (4, 8), *a)),
  ):
    for whole, part in zip(make(), make(own), strict=True):
      np.testing.assert_array_equal(part.pop('index'), whole.pop('index'))
      for name, x in whole.items():
        np.testing.assert_array_equal(part[name], x[own])


def test_a_digest_tells_data_apart():
  data = tiny.dataset(rows=50)
  ids = np.ones((50, 8), np.int32)
  data = data._replace(tokens=batches.ids.Tokens(ids, 0 * ids, ids[:, 0]))
  other = data._replace(tokens=data.tokens._replace(tokens=ids + np.eye(50, 8, dtype=np.int32)))
  found = {batches.digest(d) for d in (data, other, data._replace(label=data.label[::-1]))}
  assert len(found) == 3 and batches.digest(data) in found


class Runs:
  """A toy task in a folder, and commands on it."""

  def __init__(self, folder: pathlib.Path, method: str, **changes):
    self.folder, self._method = folder, method
    self.c = toy.config(method, folder, np.random.default_rng(0), compare='', **changes)

  def start(
    self, workdir, count: int = 2, mode='train', devices: int = 1, odd=(), cwd=None
  ) -> list:
    """The processes of one run; odd: flags of the last one alone; cwd: a folder of each."""
    was = runs.flat(importlib.import_module(f'configs.{self._method}').get_config('own').to_dict())
    now = runs.flat(self.c.to_dict())
    flags = [f'--config=configs/{self._method}.py:own', f'--workdir={workdir}', f'--mode={mode}']
    flags += [f'--config.{k}={now[k]}' for k in now if now[k] != was[k]]
    with socket.socket() as free:
      free.bind(('localhost', 0))
      port = free.getsockname()[1]
    xla = [f for f in os.environ['XLA_FLAGS'].split() if 'device_count' not in f]
    xla.append(f'--xla_force_host_platform_device_count={devices}')
    environment = os.environ | dict(
      PYTHONPATH=str(ROOT), XLA_FLAGS=' '.join(xla), JAX_COMPILATION_CACHE_DIR=f'{self.folder}/xla'
    )
    out = []
    for n in range(count):
      command = [sys.executable, '-m', 'kdjax.main', *flags, *(odd if n == count - 1 else ())]
      command.append(f'--distributed=localhost:{port},{count},{n}')
      out.append(
        subprocess.Popen(
          command, cwd=cwd[n] if cwd else ROOT, env=environment, text=True,
          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
      )  # fmt: skip
    return out

  def on(self, devices: int):
    """The config of one process that has so many devices."""
    c = self.c.copy_and_resolve_references()
    c.mesh.data = devices // (c.mesh.fsdp * c.mesh.tensor)
    return c

  def here(self, workdir, devices: int) -> dict:
    """The same run, of one process and so many devices."""
    return jobs.run(jobs.prepare(self.on(devices), workdir))


def _ended(processes: list, code: int = 0) -> list[tuple[str, str]]:
  """(standard output, standard error) of each."""
  try:
    said = [process.communicate(timeout=300) for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == [code] * len(processes), said
  return said


def test_two_hosts_learn_what_one_process_learns_bit_for_bit(tmp_path):
  kd = Runs(tmp_path, 'kd', **{'teacher.finetune': False})
  work = tmp_path / 'hosts'
  (out, err), (nothing, quiet) = _ended(kd.start(work))
  assert 'validation accuracy' in out and 'kd: 4 steps of 16' in err
  assert all(line.startswith('[Gloo]') for line in nothing.splitlines()) and 'steps' not in quiet
  kd.here(tmp_path / 'one', 2)
  assert toy.left(work) == toy.left(tmp_path / 'one')


@pytest.mark.slow
@pytest.mark.parametrize(
  'changes', [{'train.resident': 0.0}, {}, {'train.resident': 0.0, 'seeds': 2}, {'seeds': 2}]
)
def test_two_hosts_play_several_steps_a_call_as_one_process_does(tmp_path, changes):
  more = {'teacher.finetune': False, 'train.steps_per_call': 3, 'train.steps': 10}
  run = Runs(tmp_path, 'kd', **more, **{'train.eval_every': 4, 'train.log_every': 4}, **changes)
  _ended(run.start(tmp_path / 'hosts'))
  run.here(tmp_path / 'one', 2)
  assert toy.left(tmp_path / 'hosts') == toy.left(tmp_path / 'one')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['kd', 'codir'])
def test_two_hosts_train_a_seed_each_as_one_process_trains_both(tmp_path, name):
  run = Runs(tmp_path, name, seeds=2, **{'teacher.finetune': False})
  _ended(run.start(tmp_path / 'hosts'))
  run.here(tmp_path / 'one', 2)
  ours = toy.left(tmp_path / 'hosts')
  assert ours == toy.left(tmp_path / 'one')
  assert f'{name}/seed1/model/model.safetensors' in ours


@pytest.mark.slow
@pytest.mark.parametrize('name', ['kd', 'mate_kd', 'codir'])
def test_every_mode_of_two_hosts_is_that_of_one_process(tmp_path, name, capsys):
  run, work, one = Runs(tmp_path, name), tmp_path / 'hosts', tmp_path / 'one'
  _ended(run.start(work))
  run.here(one, 2)
  assert toy.left(work) == toy.left(one)
  inference.evaluation(run.on(2), one)
  inference.prediction(run.on(2), one)
  for mode in ('eval', 'predict', 'export'):
    (out, _), (nothing, _) = _ended(run.start(work, mode=mode))
    told = '"validation"' if mode == 'eval' else str(work)
    assert told in out and told not in nothing
  rows, want = ((w / 'predictions.validation.csv').read_text().split('\n') for w in (work, one))
  assert rows == want and len(rows) == 42
  metrics = [json.loads((w / 'eval.json').read_text())['metrics'] for w in (work, one)]
  assert metrics[0] == metrics[1]
  path = f'{name}/model/model.safetensors'
  assert (work / 'export/model.safetensors').read_bytes() == (one / path).read_bytes()
  # What is there already is found by the first host, and said by both.
  for _, err in _ended(run.start(work, mode='export'), 1):
    assert 'is not empty' in err.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize('count, devices', [(4, 1), (2, 2)])
def test_parameters_split_over_hosts_are_collected_to_be_scored_and_saved(tmp_path, count, devices):
  # Of fsdp 2 x tensor 2 two hosts hold the same rows, and other parts of the parameters.
  run = Runs(tmp_path, 'codir', **{'mesh.data': 1, 'mesh.fsdp': 2, 'mesh.tensor': 2})
  _ended(run.start(tmp_path / 'hosts', count, devices=devices))
  run.here(tmp_path / 'one', 4)
  _near(toy.left(tmp_path / 'hosts'), toy.left(tmp_path / 'one'))


def _near(ours: dict, want: dict) -> None:
  """Logs and models of two runs; four hosts add up in another order than four devices of one."""
  from safetensors import numpy as safetensors

  assert ours.keys() == want.keys()
  for path, value in want.items():
    if path.endswith('log.jsonl'):
      for row, there in zip(ours[path], value, strict=True):
        assert row == pytest.approx(there, rel=1e-3)
    elif path.endswith('.safetensors'):
      one, two = safetensors.load(ours[path]), safetensors.load(value)
      for key in one:
        np.testing.assert_allclose(one[key], two[key], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
  'count, rank, number',
  [
    (2, 0, signal.SIGKILL),
    (2, 1, signal.SIGKILL),
    (2, 1, signal.SIGTERM),
    (4, 0, signal.SIGKILL),
    (4, 2, signal.SIGKILL),
    (4, 3, signal.SIGTERM),
  ],
)
def test_one_host_dies_all_end_and_the_same_command_ends_the_same(tmp_path, count, rank, number):
  changes = {'train.steps': 80, 'train.eval_every': 4}
  if count > 2 or number == signal.SIGTERM:  # which the others hear of within seconds
    changes = {'train.steps': 400, 'train.eval_every': 20}
  # Of gradients that are 0 but for rounding, Adam's own epsilon would make whole steps.
  changes['train.epsilon'] = 1e-3
  run = Runs(tmp_path, 'kd', **changes)
  work = tmp_path / 'hosts'
  processes = run.start(work, count)
  try:
    while not list(work.glob('kd/checkpoints/last/sums.*.json')):
      assert all(process.poll() is None for process in processes), processes[0].stderr.read()
      time.sleep(0.01)
    processes[rank].send_signal(number)
    began = time.monotonic()
    said = [process.communicate(timeout=180) for process in processes]
    print(f'all ended {time.monotonic() - began:.1f} s after {number.name} of process {rank}')
  finally:
    for process in processes:
      process.kill()
  codes = [process.returncode for process in processes]
  assert not (work / 'kd/result.json').exists()
  if number == signal.SIGTERM:
    assert codes == [stop.CODE] * count, said
  else:
    assert codes.pop(rank) == -number and not {0, stop.CODE} & set(codes)
  (_, err), *_ = _ended(run.start(work, count))
  assert 'kd: going on from step' in err and 'teacher: finished already' in err
  run.here(tmp_path / 'one', count)
  want = toy.left(tmp_path / 'one')
  if count > 2:
    _near(toy.left(work), want)
    _ended(run.start(tmp_path / 'undisturbed', count))
    want = toy.left(tmp_path / 'undisturbed')
  assert toy.left(work) == want


@pytest.mark.slow
@pytest.mark.parametrize(
  'odd, said',
  [
    ('--config.train.rate=0.5', 'config.train.rate is {} of process 0, 0.5 of process 1. Start'),
    ('--mode=eval', "--mode is 'train' of process 0, 'eval' of process 1. Start"),
  ],
)
def test_hosts_of_different_commands_refuse_before_training(tmp_path, odd, said):
  run = Runs(tmp_path, 'kd')
  for _, err in _ended(run.start(tmp_path / 'work', odd=[odd]), 1):
    last = err.strip().splitlines()[-1]
    assert last.startswith('error: the hosts do not agree: ')
    assert said.format(run.c.train.rate) in last and 'Traceback' not in err
  assert not (tmp_path / 'work').exists()


@pytest.mark.slow  # a minute of patience
def test_hosts_that_do_not_share_the_workdir_refuse_before_training(tmp_path):
  run = Runs(tmp_path, 'kd')
  folders = [tmp_path / str(n) for n in range(2)]
  for folder in folders:
    folder.mkdir()
  for _, err in _ended(run.start('work', cwd=folders), 1):
    assert '--workdir=work is not the folder that the first host writes to' in err


@pytest.mark.slow
@pytest.mark.parametrize('rank, change', [(0, 'lost'), (1, 'lost'), (1, 'other')])
def test_hosts_whose_data_are_lost_or_others_refuse_before_training(tmp_path, rank, change):
  run = Runs(tmp_path, 'kd')
  run.c.data.train = 'train.csv'  # of the folder that a host is started in
  folders = [tmp_path / str(n) for n in range(2)]
  for n, folder in enumerate(folders):
    folder.mkdir()
    rows = (tmp_path / 'train.csv').read_text().splitlines()
    if n == rank and change == 'other':
      rows[3:5] = rows[4:2:-1]
    if n != rank or change == 'other':
      (folder / 'train.csv').write_text('\n'.join(rows))
  said = [err.strip().splitlines()[-1] for _, err in _ended(run.start('../work', cwd=folders), 1)]
  if change == 'other':
    assert 'the hosts do not agree: the data of train is ' in said[0] and said[0] == said[1]
  else:
    assert 'train.csv' in said[rank] and said[rank].startswith('error: ')
    assert said[1 - rank] == said[rank].replace('error: ', f'error: process {rank}: ')
  assert not list((tmp_path / 'work').glob('*/run.json'))
