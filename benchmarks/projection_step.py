"""What part of an AugPro-Mix step the projection is.

python -m benchmarks.projection_step [--size=minilm] [--rows=32] [--length=64] [--rounds=9]

Steps without the projection, with a search of all open positions, and with proofs take turns, on
different batches. minilm: 6 x 384 -> 2 of its layers, and docstrings. Other sizes are those of
benchmarks/step.py with random weights (large: RoBERTa-large -> DistilRoBERTa, V = 50,265), with
words by Zipf's law and a table in groups of about 8 rows, which is a hard case for
config.method.neighbours=4. Where the compiled program with proofs has an array as large as the
scores of all positions, [B L, V], it is named. --count: what a step of RoBERTa-large needs, counted
by XLA from shapes alone (what is in a loop it counts once: a search is left out, and added by
formula).
"""

import collections
import pathlib
import re
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import choices
from benchmarks import step as steps_
from configs import common
from kdjax import env, methods, net, report, sharding, tasks, train
from kdjax.data import batches, sources, tokens
from kdjax.models import hf, students

WAYS = {
  # Of a portion of 0 XLA sees that the new text is the text, and asks the teacher once.
  'none': ('no projection', dict(neighbours=0, portion=1e-6)),
  'search': ('search of open positions', dict(neighbours=0)),
  'proofs': ('proofs, then search', dict()),
  'teacher': ("the same, teacher's table", dict(table='teacher')),
}
_SIZE = flags.DEFINE_enum('size', 'minilm', list(steps_.SIZES), 'Of the models that are timed.')
_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Steps of each kind; the median is taken.')
_WAYS = choices.define('ways', list(WAYS), WAYS, 'By commas; none is always among them.')
_WARM = flags.DEFINE_integer('warm', 40, 'Steps before those, in which tokens are met.')
_ROWS = flags.DEFINE_integer('rows', 32, 'Texts of a batch.')
_LENGTH = flags.DEFINE_integer('length', 64, 'Tokens of a text.')
_COUNT = flags.DEFINE_bool('count', False, 'Count the step of RoBERTa-large too.')
_RATE = flags.DEFINE_float('rate', 3e-4, 'config.train.rate of the timed steps.')
_DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.')
_ATTENTION = flags.DEFINE_string('attention', 'einsum', 'config.train.attention.')
_CLOCK = flags.DEFINE_enum('clock', 'wall', ['wall', 'cpu'], 'As of benchmarks/step.py.')
_JSON = flags.DEFINE_string('json', '', 'A file for the numbers.')


def fields(**changes):
  """AugPro's fields, and config.train's."""
  c = common.config('docs', 'augpro')
  with c.unlocked():
    c.method.update(changes)
    c.train.update(dict(batch_size=_ROWS.value, seed=0, steps=1000, rate=_RATE.value))
  return c


def count(mesh) -> tuple[float, float]:
  """(FLOPs of a step of RoBERTa-large -> DistilRoBERTa without the projection, of one search)."""
  made = steps_.shapes('large')
  (teacher, large), (student, small) = (net.split(made[k][0]) for k in ('teacher', 'student'))
  world = env.Env(student, teacher, tasks.KINDS['classes'], jnp.ones(50265, bool))
  c = fields(neighbours=0, portion=0.0)
  rows = np.arange(_ROWS.value, dtype=np.int32)
  data = batches.Dataset(None, 0 * rows, rows, None)
  method = methods.get('augpro')(c.method, world)
  params = dict(student=small, teacher=large)
  state, frozen, steps = train.shapes(method, params, data, c.train, 1000, mesh)
  size = (_ROWS.value, _LENGTH.value)
  kinds = dict(tokens=np.int32, segments=np.int32, mask=np.bool_, maskable=np.bool_)
  batch = {k: jax.ShapeDtypeStruct(size, dtype) for k, dtype in kinds.items()}
  batch |= {k: jax.ShapeDtypeStruct(size[:1], np.int32) for k in ('label', 'index')}
  key = jax.eval_shape(lambda: jax.random.key(0))
  found = steps['student'].lower(state, frozen, batch, key).cost_analysis()
  return found['flops'], 2.0 * 50265 * 768


def minilm():
  """(Env, parameters by name, data): MiniLM, two of its layers, docstrings."""
  teacher, config, tokenizer = hf.load(hf.minilm(), 6)
  student, _ = students.cut(teacher, config, 2)
  (ours, small), (theirs, large) = net.split(student), net.split(teacher)
  usable = tokens.ordinary(tokenizer, config.vocab_size)
  text = sources.read(ConfigDict(dict(source='docs', dir='')), tasks.DOCS).splits['train']
  ids = tokens.tokenise(text, tokenizer, _LENGTH.value)
  data = batches.Dataset(ids, text.label, text.index, usable)
  world = env.Env(ours, theirs, tasks.KINDS['classes'], jnp.asarray(usable))
  return world, dict(student=small, teacher=large), data


def drawn(size: str):
  """The same of random weights and text."""
  made = steps_.build(size, dtype=_DTYPE.value, attention=_ATTENTION.value)
  del made['generator']
  world, params = steps_.world(made)
  rng, V = np.random.default_rng(0), made['student'][1].vocab_size
  for own in params.values():  # rows in groups of about 8, half as far from each other
    word = own['embeddings']['word']
    table = np.asarray(word['table'])
    table = np.float32(0.87) * table[rng.integers(0, V // 8, V)] + np.float32(0.5) * table
    word['table'] = jnp.asarray(table)
  usable = steps_.ordinary(V)
  n, least = 64 * _ROWS.value, int(usable.argmax())
  length = rng.integers(_LENGTH.value // 2, _LENGTH.value + 1, n).astype(np.int32)
  ids = np.minimum(rng.zipf(1.2, (n, _LENGTH.value)) + least, V - 1).astype(np.int32)
  ids = np.where(np.arange(_LENGTH.value)[None] < length[:, None], ids, 1)
  rows = np.arange(n, dtype=np.int32)
  text = tokens.Tokens(ids, 0 * ids, length)
  return world, params, batches.Dataset(text, rows % 2, rows, usable)


def arrays(text: str) -> dict[str, int]:
  """Shapes in a compiled program -> numbers in them, the largest first."""
  found = set(re.findall(r'\b[a-z]+\d+\[[\d,]+\]', text))
  size = {s: int(np.prod([int(n) for n in re.findall(r'\d+', s.split('[')[1])])) for s in found}
  return dict(sorted(size.items(), key=lambda item: -item[1]))


def timed(mesh, world, params, data) -> dict:
  """Seconds and shares proved of the ways' steps, and the largest arrays of the one with proofs."""
  games, times, streams = {}, collections.defaultdict(list), {}
  shares, largest = collections.defaultdict(list), {}
  V = len(world.student.table(params['student']))
  for name in dict.fromkeys(['none', *_WAYS.value]):
    c = fields(**WAYS[name][1])
    method = methods.get('augpro')(c.method, world)
    game = train.start(method, params, data, c.train, 1000, mesh)
    stream = batches.train_batches(data, _ROWS.value, (_LENGTH.value,), 0)
    first = sharding.put(next(stream), mesh)
    play = game.steps['student'].lower(game.state, game.frozen, first, game.key).compile()
    games[name], streams[name] = game._replace(steps=dict(student=play)), stream
    if name == 'proofs':
      largest = arrays(play.as_text())
  clock = dict(wall=time.perf_counter, cpu=time.process_time)[_CLOCK.value]
  for n in range(_WARM.value + _ROUNDS.value):
    for name, game in games.items():
      if name in ('none', 'search') and n < _WARM.value - 2:
        continue  # they remember nothing
      batch = jax.block_until_ready(sharding.put(next(streams[name]), mesh))
      begin = clock()
      state, metrics = game.steps['student'](game.state, game.frozen, batch, game.key)
      jax.block_until_ready(state)
      if n >= _WARM.value:
        times[name].append(clock() - begin)
      shares[name].append(float(metrics['student/settled']))
      games[name] = game._replace(state=state)
  scores = _ROWS.value * _LENGTH.value * V
  wide = {s: n for s, n in largest.items() if re.search(rf'\b{V}\b', s)}
  return dict(
    rows={name: dict(seconds=times[name], settled=shares[name]) for name in games},
    places=_ROWS.value * _LENGTH.value,
    vocabulary=V,
    largest=dict(list(largest.items())[:5]),
    of_the_vocabulary=dict(list(wide.items())[:5]),
    as_large_as_all_scores=[s for s, n in largest.items() if n >= scores],
  )


def show(found: dict) -> str:
  """The table, and what is said of the arrays."""
  lines, base = [], found['rows']['none']['seconds']
  for name, row in found['rows'].items():
    ratio = np.divide(row['seconds'], base)
    ms, above = steps_.quartiles(row['seconds']), steps_.quartiles(1 - 1 / ratio)
    cells = ['{:.1f} ({:.1f}-{:.1f})'.format(*(1e3 * v for v in ms)), f'{np.median(ratio):.3f}']
    cells.append('{:.1f} % ({:.1f}-{:.1f})'.format(*(100 * v for v in above)))
    settled = row['settled']
    cells += [f'{settled[0]:.3f}', f'{np.mean(settled[-len(base) :]):.3f}']
    lines.append([WAYS[name][0], *cells])
  head = ['step', 'ms', 'of no projection', 'share of the step', 'proved, first', 'proved, mean']
  scores = f'[{found["places"]}, {found["vocabulary"]}]'
  over = found['as_large_as_all_scores']
  return '\n'.join(
    [
      report.markdown(head, lines),
      f'\narrays as large as {scores}: {", ".join(over) or "none"}',
      f'largest: {", ".join(found["largest"])}',
      f'largest of the vocabulary: {", ".join(found["of_the_vocabulary"])}',
    ]
  )


def main(argv) -> None:
  del argv
  mesh = sharding.make_mesh(1)
  if _COUNT.value:
    step, search = count(mesh)
    places = _ROWS.value * _LENGTH.value
    print(f'RoBERTa-large -> DistilRoBERTa, {places} positions: {step / 1e12:.3f} TFLOP a step')
    for share in (1.0, 0.25, 0.05, 0.01):
      part = share * places * search
      print(f'{100 * share:.0f} % of positions searched: {part / 1e9:.1f} GFLOP, ', end='')
      print(f'{100 * part / (step + part):.2f} % of a step')
  found = timed(mesh, *(minilm() if _SIZE.value == 'minilm' else drawn(_SIZE.value)))
  command = ' '.join(['python -m benchmarks.projection_step', *sys.argv[1:]])
  found |= dict(command=command, machine=steps_.machine())
  if _JSON.value:
    report.write_json(pathlib.Path(_JSON.value), found)
  said = f'{_SIZE.value}, {_ROWS.value} x {_LENGTH.value}, {_DTYPE.value}, rate {_RATE.value}'
  print(f'\n{said}\n\n{show(found)}')
  print(f'\nmedians of {_ROUNDS.value} steps, {_CLOCK.value} clock, {jax.devices()[0].device_kind}')


if __name__ == '__main__':
  app.run(main)
