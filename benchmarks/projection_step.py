"""What part of an AugPro-Mix step the projection is.

python benchmarks/projection_step.py [--rounds=9] [--nolarge]

By multiplications: RoBERTa-large -> DistilRoBERTa, 2,048 positions, counted by XLA from shapes
alone (what is in a loop it counts once: a search is left out, and added by formula). By time:
MiniLM's 6 x 384 -> 2 of its layers on docstrings, steps with and without the projection in turn.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from absl import app, flags
from ml_collections import ConfigDict

from configs import common
from kdjax import env, methods, net, sharding, tasks, train
from kdjax.data import batches, sources, tokens
from kdjax.models import encoders, families, hf, students
from kdjax.report import markdown

_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Steps of each kind; the median is taken.')
_WARM = flags.DEFINE_integer('warm', 5, 'Steps of each kind before those.')
_ROWS = flags.DEFINE_integer('rows', 32, 'Texts of a batch.')
_LENGTH = flags.DEFINE_integer('length', 64, 'Tokens of a text.')
_LARGE = flags.DEFINE_bool('large', True, 'Count the step of RoBERTa-large too.')
_RATE = flags.DEFINE_float('rate', 3e-4, 'config.train.rate of the timed steps.')


def fields(**changes):
  """AugPro's fields, and config.train's."""
  c = common.config('docs', 'augpro')
  with c.unlocked():
    c.method.update(changes)
    c.train.update(dict(batch_size=_ROWS.value, seed=0, steps=1000, rate=_RATE.value))
  return c


def roberta(layers: int, width: int):
  """(Net, shapes of its parameters)."""
  config = transformers.RobertaConfig(
    vocab_size=50265,
    hidden_size=width,
    num_hidden_layers=layers,
    num_attention_heads=width // 64,
    intermediate_size=4 * width,
    max_position_embeddings=514,
    type_vocab_size=1,
  )
  return net.split(encoders.abstract(families.spec(config, head='classify')))


def count(mesh) -> tuple[float, float]:
  """(FLOPs of a step of RoBERTa-large -> DistilRoBERTa without the projection, of one search)."""
  (teacher, large), (student, small) = roberta(24, 1024), roberta(6, 768)
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


def timed(mesh) -> None:
  """Prints seconds a step, in turn: no projection, a search of all open positions, with proofs."""
  teacher, config, tokenizer = hf.load(hf.minilm(), 6)
  student, _ = students.cut(teacher, config, 2)
  (ours, small), (theirs, large) = net.split(student), net.split(teacher)
  usable = tokens.ordinary(tokenizer, config.vocab_size)
  text = sources.read(ConfigDict(dict(source='docs', dir='')), tasks.DOCS).splits['train']
  ids = tokens.tokenise(text, tokenizer, _LENGTH.value)
  data = batches.Dataset(ids, text.label, text.index, usable)
  world = env.Env(ours, theirs, tasks.KINDS['classes'], jnp.asarray(usable))
  ways = {
    'no projection': dict(neighbours=0, portion=0.0),
    'search of open positions': dict(neighbours=0),
    'proofs, then search': dict(),
    "the same, teacher's table": dict(table='teacher'),
  }
  games, times, shares, streams = {}, {k: [] for k in ways}, {k: [] for k in ways}, {}
  for name, changes in ways.items():
    c = fields(**changes)
    method = methods.get('augpro')(c.method, world)
    games[name] = train.start(method, dict(student=small, teacher=large), data, c.train, 1000, mesh)
    streams[name] = batches.train_batches(data, _ROWS.value, (_LENGTH.value,), 0)
  # On a CPU, processor time: others cannot take it.
  clock = time.process_time if jax.default_backend() == 'cpu' else time.perf_counter
  for n in range(_WARM.value + _ROUNDS.value):
    for name, game in games.items():
      batch = sharding.put(next(streams[name]), mesh)
      begin = clock()
      state, metrics = game.steps['student'](game.state, game.frozen, batch, game.key)
      jax.block_until_ready(state)
      if n >= _WARM.value:
        times[name].append(clock() - begin)
      shares[name].append(float(metrics['student/settled']))
      games[name] = game._replace(state=state)
  lines = []
  for name, seconds in times.items():
    ratio = np.median(np.divide(seconds, times['no projection']))
    settled = np.mean(shares[name][_WARM.value :])
    first = shares[name][0]
    lines.append(
      [name, f'{1e3 * np.median(seconds):.0f}', f'{ratio:.3f}', f'{first:.3f}', f'{settled:.3f}']
    )
  print(f'\nMiniLM 6 x 384 -> 2 x 384, {_ROWS.value} x {_LENGTH.value}, rate {_RATE.value}\n')
  head = ['step', 'ms', 'of no projection', 'proved, first', 'proved, mean']
  print(markdown(head, lines))
  print(f'\nmedians of {_ROUNDS.value} steps, {jax.devices()[0].device_kind}')


def main(argv) -> None:
  del argv
  mesh = sharding.make_mesh(1)
  if _LARGE.value:
    step, search = count(mesh)
    places = _ROWS.value * _LENGTH.value
    print(f'RoBERTa-large -> DistilRoBERTa, {places} positions: {step / 1e12:.3f} TFLOP a step')
    for share in (1.0, 0.25, 0.05, 0.01):
      part = share * places * search
      print(f'{100 * share:.0f} % of positions searched: {part / 1e9:.1f} GFLOP, ', end='')
      print(f'{100 * part / (step + part):.2f} % of a step')
  timed(mesh)


if __name__ == '__main__':
  app.run(main)
