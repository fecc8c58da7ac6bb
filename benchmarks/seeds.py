"""A step of many seeds in one program, against that of one seed, as often.

nice -n 5 python -m benchmarks.seeds [--method=kd] [--seeds=4] [--sizes=toy,small,docs] [--rounds=5]

Random weights, one device. Prints, for each size: seconds of a step of one seed and of all, medians
over rounds that take turns, and their ratio to one step, and to as many single steps; by the wall
clock and by the process's CPU time, which neighbours on the same cores disturb less. Below 1 of as
many, one program is faster.
"""

import pathlib
import sys
import time

import jax
import numpy as np
import transformers
from absl import app, flags, logging

from benchmarks import choices, step
from configs import common
from kdjax import env, methods, net, report, seeds, sharding, tasks, train
from kdjax.data import batches
from kdjax.models import hf

# vocabulary, width, layers of teacher and student, rows, tokens
SIZES = dict(
  toy=(25, 16, 2, 1, 16, 12),
  small=(2000, 128, 4, 2, 32, 32),
  docs=(30522, 384, 6, 2, 32, 32),
)


def world(V: int, width: int, teacher: int, student: int, dtype: str = 'float32'):
  """(Env, parameters by name)."""
  made = {}
  for name, layers in dict(teacher=teacher, student=student).items():
    config = transformers.BertConfig(
      vocab_size=V,
      hidden_size=width,
      num_hidden_layers=layers,
      num_attention_heads=max(2, width // 32),
      intermediate_size=4 * width,
      num_labels=6,
    )
    made[name] = net.split(hf.build(config, dtype=dtype))
  kind = tasks.KINDS['classes']
  world = env.Env(made['student'][0], made['teacher'][0], kind, np.arange(V) >= 5, mask_id=4)
  return world, {name: params for name, (_, params) in made.items()}


def batch(rng, V: int, rows: int, length: int) -> dict[str, np.ndarray]:
  """Full rows of random words."""
  tokens = rng.integers(5, V, (rows, length)).astype(np.int32)
  mask, label = np.ones(tokens.shape, bool), rng.integers(0, 6, rows).astype(np.int32)
  index = np.arange(rows, dtype=np.int32)
  found = dict(tokens=tokens, segments=0 * tokens, mask=mask, maskable=mask)
  return found | dict(label=label, index=index)


def player(n: int, size: tuple[int, ...]):
  """A function that plays so many steps of n seeds, and waits for them."""
  V, width, teacher, student, rows, length = size
  rows, length = ROWS.value or rows, LENGTH.value or length
  made, params = world(V, width, teacher, student, DTYPE.value)
  c = common.config('docs', METHOD.value)
  with c.unlocked():
    c.train.update(batch_size=rows, seed=0)
  rng, mesh = np.random.default_rng(0), sharding.for_seeds(sharding.make_mesh(1), n)
  index = np.arange(rows, dtype=np.int32)
  data = batches.Dataset(None, index % 6, index, None)
  method = methods.get(c.method.name)(c.method, made)
  game = train.start(method, [params] * n, data, c.train, 1000, mesh)
  own = [[batch(rng, V, rows, length)] for _ in range(n)]
  here, state = sharding.put(next(seeds.batches(own)), mesh, n > 1), game.state

  def play(steps: int) -> None:
    nonlocal state
    for _ in range(steps):
      state, metrics = game.steps['student'](state, game.frozen, here, game.key)
    jax.block_until_ready((state, metrics))

  return play


def main(argv) -> None:
  del argv
  lines, n = [], SEEDS.value
  found = dict(command=' '.join(['python -m benchmarks.seeds', *sys.argv[1:]]), seeds=n, rows={})
  for name in SIZES_.value:
    calls = {k: player(k, SIZES[name]) for k in (1, n)}
    spent = {k: [] for k in calls}
    for _ in range(ROUNDS.value + 1):
      for k, call in calls.items():
        begin = np.array([time.perf_counter(), time.process_time()])
        call(STEPS.value)
        spent[k].append(np.array([time.perf_counter(), time.process_time()]) - begin)
    one, all_ = (np.median(spent[k][1:], 0) / STEPS.value for k in (1, n))  # without compilation
    lines.append([name, *(f'{1e3 * x:.2f}' for x in (one[0], all_[0], one[1], all_[1]))])
    lines[-1] += [f'{x:.2f}' for x in (*(all_ / one), *(all_ / (n * one)))]
    logging.info('%s', ' '.join(lines[-1]))
    found['rows'][name] = dict(
      one=list(one), all=list(all_), rounds={k: np.stack(v[1:]).tolist() for k, v in spent.items()}
    )
    if JSON.value:
      report.write_json(pathlib.Path(JSON.value), found | dict(machine=step.machine()))
  head = ['', 'ms, 1 seed', f'ms, {n} seeds', 'CPU ms, 1', f'CPU ms, {n}', 'of one', 'of one, CPU']
  print(report.markdown([*head, f'of {n} times one', 'the same, CPU'], lines))


if __name__ == '__main__':
  METHOD = flags.DEFINE_string('method', 'kd', 'Without a generator.')
  SEEDS = flags.DEFINE_integer('seeds', 4, 'In one program.', lower_bound=2)
  SIZES_ = choices.define('sizes', SIZES, SIZES, 'Of models and batches.')
  ROUNDS = flags.DEFINE_integer('rounds', 5, 'Medians over these.')
  STEPS = flags.DEFINE_integer('steps', 4, 'In each round; on a GPU twenty or more.')
  ROWS = flags.DEFINE_integer('rows', 0, "Of a batch; 0: the size's.")
  LENGTH = flags.DEFINE_integer('length', 0, "Tokens a row; 0: the size's.")
  DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.')
  JSON = flags.DEFINE_string('json', '', 'A file for the numbers.')
  app.run(main)
