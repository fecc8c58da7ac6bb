"""Steps a second of a small student: steps a call, and data on the host or on the device.

python -m benchmarks.feed [--sizes=toy,small] [--calls=1,8,32] [--rounds=5] [--clock=wall]

Random weights and full rows, one device, without evaluations and rows of a log; what train.fit
plays otherwise. `one by one` builds a batch on the host and calls the program of a single turn. All
take turns in one process. ms of a step: median over rounds, and quartiles; `prepared` is what the
host spends on the next call's rows, the wall clock; `of one by one` the medians' ratio.
"""

import functools
import itertools
import pathlib
import sys
import time

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks import choices, step
from benchmarks import seeds as sizes
from configs import common
from kdjax import feed, methods, report, sharding, train
from kdjax.data import batches, tokens

ROWS = 4096


class Player:
  """Plays so many steps of a game; `prepared` seconds of them went into rows."""

  def __init__(self, game, data, mesh, rows: int, length: int):
    self._game, self._state, self._data, self._mesh = game, game.state, data, mesh
    self._rows, self._lengths, self._done, self.prepared = rows, (length,), 0, []

  def one_by_one(self, steps: int) -> None:
    stream = batches.train_batches(self._data, self._rows, self._lengths, 0, self._done)
    spent, play = 0.0, self._game.steps['student']
    for _ in range(steps):
      begin = time.perf_counter()
      batch = sharding.put(next(stream), self._mesh)
      spent += time.perf_counter() - begin
      self._state, metrics = play(self._state, self._game.frozen, batch, self._game.key)
    self._end(metrics, steps, spent)

  def calls(self, steps: int, size: int, here: batches.Dataset | None) -> None:
    plan = batches.train_plan(self._data, self._rows, self._lengths, 0, self._done, size)
    key = lambda step: ('student',)  # noqa: E731
    calls = feed.calls(
      itertools.islice(plan, steps), 0, size, key, self._data, here is not None, batches.ALL,
      self._mesh,
    )  # fmt: skip
    spent, play, game = 0.0, self._game.calls['student'], self._game
    while True:
      begin = time.perf_counter()
      call = next(calls, None)
      spent += time.perf_counter() - begin
      if not call:
        break
      count = len(call.index)
      self._state, metrics = play(
        call.length, self._state, game.frozen, here, call.rows, count, game.key
      )
    self._end(metrics, steps, spent)

  def _end(self, metrics, steps: int, spent: float) -> None:
    jax.block_until_ready(metrics)
    self._done += steps
    self.prepared.append(spent / steps)


def players(size: tuple[int, ...], calls: list[int], steps: int) -> dict[tuple, Player]:
  """By (steps a call, where the data are): a function that plays, and its player."""
  V, width, teacher, student, rows, length = size
  made, params = sizes.world(V, width, teacher, student, DTYPE.value)
  mesh, rng = sharding.make_mesh(1), np.random.default_rng(0)
  ids = rng.integers(5, V, (ROWS, length)).astype(np.int32)
  full = tokens.Tokens(ids, 0 * ids, np.full(ROWS, length, np.int32))
  index = np.arange(ROWS, dtype=np.int32)
  data = batches.Dataset(full, index % 6, index, np.arange(V) >= 5)
  here, out = feed.place(data, mesh), {}
  for size_ in calls:
    c = common.config('docs', METHOD.value)
    with c.unlocked():
      c.train.update(batch_size=rows, seed=0, steps_per_call=size_)
    method = methods.get(c.method.name)(c.method, made)
    play = lambda m=method, t=c.train: Player(  # noqa: E731
      train.start(m, params, data, t, 1000, mesh), data, mesh, rows, length
    )
    if size_ == calls[0]:
      one = play()
      out['', 'one by one'] = functools.partial(one.one_by_one, steps), one
    for where in (None, here):
      many = play()
      call = functools.partial(many.calls, steps, size_, where)
      out[str(size_), 'device' if where else 'host'] = call, many
  return out


def main(argv) -> None:
  del argv
  clock = dict(wall=time.perf_counter, cpu=time.process_time)[CLOCK.value]
  lines, rows = [], {}
  command = ' '.join(['python -m benchmarks.feed', *sys.argv[1:]])
  for name in SIZES.value:
    found = players(sizes.SIZES[name], list(map(int, CALLS.value)), STEPS.value)
    calls = {k: call for k, (call, _) in found.items()}
    seconds = step.take_turns(calls, ROUNDS.value, clock)
    base = np.median(seconds['', 'one by one'])
    for (size, where), spent in seconds.items():
      ms = [1e3 * v / STEPS.value for v in step.quartiles(spent)]
      prepared = 1e3 * np.median(found[size, where][1].prepared[2:])
      cells = [name, size, where, f'{1e3 / ms[0]:,.0f}']
      cells += ['{:.2f} ({:.2f}-{:.2f})'.format(*ms), f'{prepared:.2f}']
      lines.append([*cells, f'{np.median(spent) / base:.2f}'])
      logging.info('%s', ' '.join(lines[-1]))
      rows[f'{name}, {where}' + f', {size} a call' * bool(size)] = dict(
        ms=ms, prepared=prepared, of_one_by_one=float(np.median(spent) / base)
      )
    if JSON.value:
      found = dict(command=command, machine=step.machine(), rows=rows)
      report.write_json(pathlib.Path(JSON.value), found)
  head = ['', 'steps a call', 'data', 'steps/s', 'ms a step', 'prepared', 'of one by one']
  print(f'\n{METHOD.value}, {CLOCK.value} clock; {step.machine()}\n{report.markdown(head, lines)}')


if __name__ == '__main__':
  METHOD = flags.DEFINE_string('method', 'kd', 'Without a generator.')
  SIZES = choices.define(
    'sizes', ['toy', 'small'], sizes.SIZES, 'Of models and batches: those of seeds.py.'
  )
  CALLS = flags.DEFINE_list('calls', ['1', '8', '32'], 'Steps a call.')
  ROUNDS = flags.DEFINE_integer('rounds', 5, 'In turn.')
  STEPS = flags.DEFINE_integer('steps', 64, 'In each round.')
  DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.')
  JSON = flags.DEFINE_string('json', '', 'A file for the numbers.')
  CLOCK = flags.DEFINE_enum('clock', 'wall', ['wall', 'cpu'], 'As of benchmarks/step.py.')
  app.run(main)
