"""The jsonl log and Weights & Biases: each step once, also after a kill."""

import json
import pathlib
import sys
import time

import pytest

from kdjax import log


def _rows(folder):
  return [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]


def test_a_resumed_log_has_each_step_and_each_evaluation_once(tmp_path):
  writer = log.Writer(tmp_path, 0, 0, tensorboard=False)
  for step in (1, 2, 3):
    writer.write(step, dict(loss=step / 2))
    writer.write(step, {'validation/f1': step / 4})
  writer.close()
  with (tmp_path / 'log.jsonl').open('a') as f:
    f.write('{"step": 4, "lo')  # killed while writing
  writer = log.Writer(tmp_path, start=2, scored=1, tensorboard=False)
  writer.write(3, dict(loss=9.0))
  writer.close()
  assert _rows(tmp_path) == [
    dict(step=1, loss=0.5),
    {'step': 1, 'validation/f1': 0.25},
    dict(step=2, loss=1.0),
    dict(step=3, loss=9.0),
  ]


def test_a_log_that_is_opened_and_killed_has_lost_nothing(tmp_path, monkeypatch):
  writer = log.Writer(tmp_path, 0, 0, tensorboard=False)
  writer.write(1, dict(loss=0.5))
  writer.close()

  def killed(*args, **kwargs):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'replace', killed)
    with pytest.raises(KeyboardInterrupt):
      log.Writer(tmp_path, 1, 0, tensorboard=False)
  assert _rows(tmp_path) == [dict(step=1, loss=0.5)]
  kept = log.Writer(tmp_path, 1, 0, tensorboard=False)
  assert _rows(tmp_path) == [dict(step=1, loss=0.5)]  # before it is flushed or closed
  kept.close()


def test_tensorboard_files_are_written_where_asked_for(tmp_path):
  writer = log.Writer(tmp_path, 0, 0)
  writer.write(1, {'student/loss': 0.5})
  writer.close()
  (file,) = (tmp_path / 'tensorboard').iterdir()
  assert b'student/loss' in file.read_bytes()


def test_a_rate_counts_examples_by_the_clock(monkeypatch):
  times = iter([10.0, 12.0, 12.5])
  monkeypatch.setattr(log.time, 'perf_counter', lambda: next(times))
  clock = log.Clock()
  assert clock.rate(100) == pytest.approx(50)
  assert clock.rate(100) == pytest.approx(200)


class Wandb:
  """What stands in for wandb: runs on a server, which takes no step that lies behind."""

  Settings = dict

  def __init__(self):
    self.runs, self.asked = {}, []

  def init(self, **asked):
    self.asked.append(asked)
    return Run(self.runs.setdefault(asked['id'], {}), asked['name'])


class Run:
  offline, url = False, 'https://wandb.invalid/run'

  def __init__(self, rows, name):
    self.rows, self.name, self.step, self._part = rows, name, max(rows, default=-1) + 1, None

  def log(self, values, step):
    assert step >= (self.step if self._part is None else self._part)  # or it warns, and drops it
    if step != self._part:
      self.commit()
      self._part = step
      self.step, self._row = step, {}
    self._row |= values

  def commit(self):
    if self._part is not None:
      self.rows[self._part] = self._row

  def finish(self):
    self.commit()


def test_a_run_that_was_killed_goes_on_in_weights_and_biases_with_each_step_once(
  tmp_path, monkeypatch
):
  server = Wandb()
  monkeypatch.setitem(sys.modules, 'wandb', server)
  where = tmp_path / 'work' / 'kd' / 'seed3'
  where.parent.mkdir(parents=True)
  (where.parent / 'run.json').write_text('{"train.rate": 0.5}')

  def play(first, last, start, scored, closed):
    writer = log.Writer(where, start, scored, False, 'proj')
    for step in range(first, last + 1):
      writer.write(step, dict(loss=step / 8))
      if step % 2 == 0:
        writer.write(step, {'validation/f1': step / 16})
    if closed:
      writer.close()

  play(1, 5, 0, 0, closed=False)  # killed: the last row has not arrived
  (rows,) = server.runs.values()
  assert list(rows) == [1, 2, 3, 4]
  play(3, 3, 2, 2, closed=False)  # rows 3 and 4 are there, and come again
  play(5, 8, 4, 4, closed=True)
  want = {
    s: dict(loss=s / 8) | ({'validation/f1': s / 16} if s % 2 == 0 else {}) for s in range(1, 9)
  }
  assert server.runs == {server.asked[0]['id']: want}
  asked = server.asked[-1]
  assert (asked['project'], asked['name'], asked['group']) == ('proj', 'kd/seed3', 'work')
  assert asked['config'] == {'train.rate': 0.5} and asked['resume'] == 'allow'


def test_a_run_that_is_tracked_from_its_midst_on_is_there_whole(tmp_path, monkeypatch):
  server = Wandb()
  monkeypatch.setitem(sys.modules, 'wandb', server)
  first = log.Writer(tmp_path, 0, 0, False)
  first.write(1, dict(loss=0.5))
  first.close()
  second = log.Writer(tmp_path, 1, 0, False, 'proj')
  second.write(2, dict(loss=0.25))
  second.close()
  assert list(server.runs.values()) == [{1: dict(loss=0.5), 2: dict(loss=0.25)}]


def test_weights_and_biases_is_asked_for_and_missing_or_refuses(tmp_path, monkeypatch):
  monkeypatch.setattr(log.importlib.util, 'find_spec', lambda name: None)
  log.check('')
  with pytest.raises(
    ValueError, match=r"config.train.wandb='p' needs wandb: pip install 'kdjax\[wa"
  ):
    log.check('p')

  class Refuses(Wandb):
    def init(self, **asked):
      raise RuntimeError('no API key')

  monkeypatch.setitem(sys.modules, 'wandb', Refuses())
  with pytest.raises(
    ValueError, match=r'no API key. `wandb login` first, or set WANDB_MODE=offline'
  ):
    log.Writer(tmp_path, 0, 0, False, 'p')


@pytest.mark.slow
def test_wandb_itself_writes_a_run_offline(tmp_path, monkeypatch):
  pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  for start in (0, 1):
    writer = log.Writer(tmp_path, start, start, False, 'proj')
    writer.write(start + 1, {'student/loss': 0.5})
    writer.close()
  ident = json.loads((tmp_path / 'wandb.json').read_text())['id']
  files = list((tmp_path / 'wandb').glob(f'offline-run-*-{ident}/run-{ident}.wandb'))
  until = time.monotonic() + 30  # it writes on in a process of its own
  while time.monotonic() < until and not all(b'student/loss' in f.read_bytes() for f in files):
    time.sleep(0.1)
  assert files and time.monotonic() < until
