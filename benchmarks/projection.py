"""What AugPro's projection costs, by several routes, and whether they find the same tokens.

python benchmarks/projection.py [--table=minilm] [--dir=<folder of GLUE parquet files>] [--full]
python benchmarks/projection.py --table=clusters --vocabulary=50265 --width=768 [--full]

Queries are mixtures of tokens aligned by position in two texts of a batch, lambda ~ U(0, 1).
Prints the median time and the compiled program's memory for each route, the shares of open
positions that were proved and that float64 agrees on, and writes them to --out. The routes are run
in turn, round by round; on a CPU the ratio is of processor time, which others cannot take.
"""

import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from kdjax import augment, net, projection, tasks
from kdjax.data import sources, tokens
from kdjax.models import hf
from kdjax.report import markdown

_TABLE = flags.DEFINE_enum('table', 'minilm', ['minilm', 'clusters', 'random'], 'Whose rows.')
_VOCABULARY = flags.DEFINE_integer('vocabulary', 50265, 'Rows of a table that is drawn.')
_WIDTH = flags.DEFINE_integer('width', 768, 'Of a table that is drawn.')
_DIR = flags.DEFINE_string('dir', '', 'GLUE parquet files (SST-2 is read); empty: docstrings.')
_ROWS = flags.DEFINE_integer('rows', 32, 'Texts of a batch.')
_LENGTH = flags.DEFINE_integer('length', 64, 'Tokens of a text.')
_FULL = flags.DEFINE_bool('full', False, 'Texts one after another, so that no position is padding.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Of which the median is taken.')
_WARM = flags.DEFINE_integer('warm', 40, 'Batches projected before: most tokens have been met.')
_NEIGHBOURS = flags.DEFINE_list('neighbours', ['1', '2', '4', '8'], 'As in config.method.')
_MORE = flags.DEFINE_bool('more', False, 'Approximate routes too.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of everything that is drawn.')
_OUT = flags.DEFINE_string('out', '', 'A JSON file.')


def drawn(rng) -> np.ndarray:
  """A table of unit scale; of clusters: rows in groups of about 8, half as far from each other."""
  V, D = _VOCABULARY.value, _WIDTH.value
  table = rng.normal(size=(V, D)).astype(np.float32) / np.float32(np.sqrt(D))
  if _TABLE.value == 'clusters':
    table = np.float32(0.87) * table[rng.integers(0, V // 8, V)] + np.float32(0.5) * table
  return table


def texts(rng):
  """(table, bool[V] that may be written, ids i32[n, L]) of a model and real or drawn text."""
  length = _LENGTH.value
  if _TABLE.value != 'minilm':
    table = drawn(rng)
    usable = np.arange(len(table)) > 4
    # Zipf's law, as words have it; half of each text is padding.
    ids = np.minimum(rng.zipf(1.2, (4096, length)) + 4, len(table) - 1).astype(np.int32)
    return (
      table,
      usable,
      np.where(np.arange(length)[None] < rng.integers(4, length, (4096, 1)), ids, 0),
    )
  module, config, tokenizer = hf.load(hf.minilm(), 2)
  cut, params = net.split(module)
  name = 'sst2' if _DIR.value else 'docs'
  fields = dict(source='local' if _DIR.value else 'docs', dir=_DIR.value)
  text = sources.read(ConfigDict(fields), tasks.GLUE.get(name, tasks.DOCS)).splits['train']
  usable = tokens.ordinary(tokenizer, config.vocab_size)
  return np.asarray(cut.table(params)), usable, tokens.tokenise(text, tokenizer, length).tokens


def batch(ids, usable, table, rng):
  """(x [B, L, D], pair i32[B, L, 2], where bool[B, L])."""
  if _FULL.value:
    flat = rng.permutation(ids).reshape(-1)
    flat = flat[usable[flat]]
    ids = flat[: len(flat) // _LENGTH.value * _LENGTH.value].reshape(-1, _LENGTH.value)
  chosen = ids[rng.permutation(len(ids))[: _ROWS.value]]
  pair = np.stack([chosen, rng.permutation(chosen)], -1)
  lam = jnp.asarray(rng.random(chosen.shape), jnp.float32)
  x = augment.mixup(jnp.asarray(table)[pair[..., 0]], jnp.asarray(table)[pair[..., 1]], lam)
  return x, jnp.asarray(pair), jnp.asarray(usable[pair].all(-1))


def naive(x_BLD, table_VD, allowed):
  """All scores at once."""
  scores = jnp.einsum('BLD,VD->BLV', x_BLD, table_VD, precision='highest')
  return (scores - _penalty(table_VD, allowed)).argmax(-1)


def _penalty(table_VD, allowed):
  return jnp.where(allowed, jnp.square(table_VD).sum(1) / 2, jnp.inf)[None, None]


def approximate(x_BLD, table_VD, allowed):
  """TPU-KNN, Chern et al. (2022): exact on CPU and GPU, where it is a sort."""
  scores = jnp.einsum('BLD,VD->BLV', x_BLD, table_VD, precision='highest')
  return jax.lax.approx_max_k(scores - _penalty(table_VD, allowed), 1)[1][..., 0]


def half(x_BLD, table_VD, allowed):
  """Scores in bfloat16, of which the best four are compared in float32; nothing is proved."""
  x, table = x_BLD.astype(jnp.bfloat16), table_VD.astype(jnp.bfloat16)
  scores = jnp.einsum('BLD,VD->BLV', x, table, preferred_element_type=jnp.float32)
  ids = jax.lax.top_k(scores - _penalty(table_VD, allowed), 4)[1]
  away = jnp.square(x_BLD[:, :, None] - table_VD[ids]).sum(-1)
  return jnp.take_along_axis(ids, away.argmin(-1)[..., None], -1)[..., 0]


def certain(memory, x, pair, where, table, allowed, moves=''):
  """projection.project, rows looked up in the table."""
  return projection.project(memory, x, pair, where, table, allowed, lambda i: table[i], moves)


def truth(x, table, usable, found) -> np.ndarray:
  """f64[routes, Q]: how much farther than the nearest row the found one is, of |x|^2 + |E|^2."""
  x, rows = np.asarray(x, np.float64).reshape(-1, x.shape[-1]), np.asarray(table, np.float64)
  lengths = np.where(usable, np.square(rows).sum(1), np.inf)
  least = np.concatenate([(lengths - 2 * part @ rows.T).min(1) for part in np.array_split(x, 16)])
  out = []
  for ids in found:
    own = np.square(rows[ids.reshape(-1)]).sum(1)
    away = own - 2 * (x * rows[ids.reshape(-1)]).sum(1)
    out.append((away - least) / (own + np.square(x).sum(1)))
  return np.stack(out)


def main(argv) -> None:
  del argv
  rng = np.random.default_rng(_SEED.value)
  table, usable, ids = texts(rng)
  E, allowed = jnp.asarray(table), jnp.asarray(usable)
  draw = functools.partial(batch, ids, usable, table, rng)
  x, pair, where = query = draw()
  before = [draw() for _ in range(_WARM.value)]

  routes, proved = {}, {}

  def route(name, function, *args):
    program = jax.jit(function).lower(*args).compile()
    memory = program.memory_analysis()
    size = memory.temp_size_in_bytes if memory else 0
    routes[name] = functools.partial(run, program, *args), size
    return program

  def run(program, *args):
    return jax.block_until_ready(program(*args))

  route('all scores at once', naive, x, E, allowed)
  if _MORE.value:
    route('approx_max_k', approximate, x, E, allowed)
    route('bfloat16, 4 compared in float32', half, x, E, allowed)
  route('by blocks of the table', lambda *a: augment.nearest_token(*a), x, E, allowed)

  def open_only(x, E, allowed, where):
    return augment.nearest_token(x, E, allowed, where=where)

  route('the same, open positions alone', open_only, x, E, allowed, where)
  for moves in ('', 'student'):
    for K in map(int, _NEIGHBOURS.value):
      if moves and K != 4:
        continue
      name = f'proved, {K} neighbours' + ', of a table that may move' * bool(moves)
      memory = projection.start(E, K, moves)
      function = functools.partial(certain, moves=moves)
      first = f'{name}, first batch'
      program = route(first, function, memory, *query, E, allowed)
      for other in before:
        memory = program(memory, *other, E, allowed)[2]
      routes[name] = (functools.partial(run, program, memory, *query, E, allowed), routes[first][1])

  found, times, work = {}, {name: [] for name in routes}, {name: [] for name in routes}
  for _ in range(_ROUNDS.value):
    for name, (call, _) in routes.items():
      begin = time.perf_counter(), time.process_time()
      out = call()
      times[name].append(time.perf_counter() - begin[0])
      work[name].append(time.process_time() - begin[1])
      found[name] = np.asarray(out[0] if isinstance(out, tuple) else out)
      proved[name] = np.asarray(out[1])[where].mean() if isinstance(out, tuple) else None
  asked = np.flatnonzero(where)[:512]
  flat = [out.reshape(-1)[asked] for out in found.values()]
  worse = truth(np.asarray(x).reshape(-1, x.shape[-1])[asked], table, usable, flat)
  rows = []
  for (name, (_, size)), gap in zip(routes.items(), worse, strict=True):
    spent = work if jax.default_backend() == 'cpu' else times
    ratios = np.divide(spent[name], spent['by blocks of the table'])
    rows.append(
      dict(
        route=name,
        milliseconds=1e3 * float(np.median(times[name])),
        work=1e3 * float(np.median(work[name])),
        ratio=float(np.median(ratios)),
        megabytes=size / 1e6,
        proved=None if proved[name] is None else float(proved[name]),
        nearest=float((gap < 1e-6).mean()),
      )
    )
  head = dict(
    queries=int(where.size),
    open=int(where.sum()),
    tokens=len(np.unique(np.asarray(pair)[np.asarray(where)])),
    table=_TABLE.value,
    vocabulary=table.shape[0],
    width=table.shape[1],
    device=jax.devices()[0].device_kind,
    rounds=_ROUNDS.value,
    jax=jax.__version__,
  )
  print(f'\n{head}\n')
  lines = [
    [
      row['route'],
      f'{row["milliseconds"]:.0f}',
      f'{row["work"]:.0f}',
      f'{row["ratio"]:.3f}',
      f'{row["megabytes"]:.0f}',
      '' if row['proved'] is None else f'{100 * row["proved"]:.1f} %',
      f'{100 * row["nearest"]:.2f} %',
    ]
    for row in rows
  ]
  print(markdown(['route', 'ms', 'CPU ms', 'of blocks', 'MB', 'proved', 'nearest'], lines))
  if _OUT.value:
    out = json.dumps(dict(head, routes=rows), indent=2)
    pathlib.Path(_OUT.value).write_text(out + '\n', encoding='utf8')


if __name__ == '__main__':
  app.run(main)
