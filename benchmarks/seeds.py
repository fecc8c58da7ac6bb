"""A step of many seeds in one program, against that of one seed, as often.

nice -n 5 python benchmarks/seeds.py [--method=kd] [--seeds=4] [--sizes=toy,small,docs] [--rounds=5]

Random weights, one device. Prints, for each size: seconds of a step of one seed and of all, medians
over rounds that take turns, and their ratio to as many single steps; by the wall clock and by the
process's CPU time, which neighbours on the same cores disturb less. Below 1, one program is faster.
"""

import time

import jax
import numpy as np
import transformers
from absl import app, flags, logging

from configs import common
from kdjax import env, methods, net, seeds, sharding, tasks, train
from kdjax.data import batches
from kdjax.models import hf
from kdjax.report import markdown

# vocabulary, width, layers of teacher and student, rows, tokens
SIZES = dict(
  toy=(25, 16, 2, 1, 16, 12),
  small=(2000, 128, 4, 2, 32, 32),
  docs=(30522, 384, 6, 2, 32, 32),
)


def world(V: int, width: int, teacher: int, student: int):
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
    made[name] = net.split(hf.build(config))
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
  """A function that plays one step of n seeds, and waits for it."""
  V, width, teacher, student, rows, length = size
  made, params = world(V, width, teacher, student)
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

  def step() -> None:
    nonlocal state
    state, metrics = game.steps['student'](state, game.frozen, here, game.key)
    jax.block_until_ready(metrics)

  return step


def main(argv) -> None:
  del argv
  lines, n = [], SEEDS.value
  for name in SIZES_.value:
    calls = {k: player(k, SIZES[name]) for k in (1, n)}
    spent = {k: [] for k in calls}
    for _ in range(ROUNDS.value + 1):
      for k, call in calls.items():
        begin = np.array([time.perf_counter(), time.process_time()])
        for _ in range(STEPS.value):
          call()
        spent[k].append(np.array([time.perf_counter(), time.process_time()]) - begin)
    one, all_ = (np.median(spent[k][1:], 0) / STEPS.value for k in (1, n))  # without compilation
    ratios = all_ / (n * one)
    lines.append([name, *(f'{1e3 * x:.1f}' for x in (one[0], all_[0], one[1], all_[1]))])
    lines[-1] += [f'{x:.2f}' for x in ratios]
    logging.info('%s', ' '.join(lines[-1]))
  head = ['', 'ms, 1 seed', f'ms, {n} seeds', 'CPU ms, 1', f'CPU ms, {n}', 'ratio', 'ratio, CPU']
  print(markdown(head, lines))


if __name__ == '__main__':
  METHOD = flags.DEFINE_string('method', 'kd', 'Without a generator.')
  SEEDS = flags.DEFINE_integer('seeds', 4, 'In one program.', lower_bound=2)
  SIZES_ = flags.DEFINE_list('sizes', ['toy', 'small', 'docs'], 'Of models and batches.')
  ROUNDS = flags.DEFINE_integer('rounds', 5, 'Medians over these.')
  STEPS = flags.DEFINE_integer('steps', 4, 'In each round.')
  app.run(main)
