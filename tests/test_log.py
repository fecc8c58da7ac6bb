"""The jsonl log: each step once, also after a kill."""

import json
import pathlib

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
