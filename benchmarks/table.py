"""What mixing and projecting do on a real embedding table.

python benchmarks/table.py [--model=minilm] [--dir=<folder of GLUE parquet files>]

Prints how far apart the table's rows lie, and, for pairs of tokens aligned by position in real
text, which token a mixture projects to: the heavier one, the lighter one, or a third.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from kdjax import augment, net, tasks
from kdjax.data import sources, tokens
from kdjax.models import hf
from kdjax.report import markdown

_MODEL = flags.DEFINE_string('model', 'minilm', 'A HuggingFace folder or id.')
_DIR = flags.DEFINE_string('dir', '', 'GLUE parquet files (SST-2 is read); empty: docstrings.')
_PAIRS = flags.DEFINE_integer('pairs', 4096, 'Pairs of tokens.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of pairs and lambdas.')


def pairs(table, tokenizer, usable, count: int, rng) -> np.ndarray:
  """i32[count, 2]: ordinary tokens at the same position of two random texts."""
  ids = tokens.tokenise(table, tokenizer, 64)
  found = np.zeros((0, 2), np.int32)
  while len(found) < count:
    a, b = (ids.tokens[rng.permutation(len(ids.length))] for _ in range(2))
    both = usable[a] & usable[b] & (a != b)
    found = np.concatenate([found, np.stack([a[both], b[both]], 1)])
  return rng.permutation(found)[:count]


def main(argv) -> None:
  del argv
  rng = np.random.default_rng(_SEED.value)
  where = hf.minilm() if _MODEL.value == 'minilm' else _MODEL.value
  module, config, tokenizer = hf.load(where, 2)
  cut, params = net.split(module)
  table_VE = cut.table(params)
  usable = tokens.ordinary(tokenizer, config.vocab_size)
  name = 'sst2' if _DIR.value else 'docs'
  fields = dict(source='local' if _DIR.value else 'docs', dir=_DIR.value)
  spec = tasks.GLUE.get(name, tasks.DOCS)
  text = sources.read(ConfigDict(fields), spec)
  ids_P2 = pairs(text.splits['train'], tokenizer, usable, _PAIRS.value, rng)
  a, b = table_VE[ids_P2[:, 0]], table_VE[ids_P2[:, 1]]

  rows = rng.permutation(np.flatnonzero(usable))[: _PAIRS.value]
  project = jax.jit(augment.nearest_token, static_argnames='metric')
  near = project(table_VE[rows], table_VE, usable, forbidden=jnp.asarray(rows)[:, None])
  apart = lambda x, y: float(jnp.linalg.norm(x - y, axis=-1).mean())  # noqa: E731
  print(f'\n{_MODEL.value}: {table_VE.shape[0]:,} x {table_VE.shape[1]}, {text.origin}')
  print(f'mean norm of a row {float(jnp.linalg.norm(table_VE[rows], axis=-1).mean()):.3f}')
  print(f'mean distance to the nearest other row {apart(table_VE[rows], table_VE[near]):.3f}')
  print(f'mean distance of a pair in the text {apart(a, b):.3f}\n')

  n, lines = len(ids_P2), []
  draws = {
    'U(0, 1)': rng.random(n),
    'Beta(0.4, 0.4)': rng.beta(0.4, 0.4, n),
    'Beta(8, 8)': rng.beta(8, 8, n),
  }
  for draw, lam in draws.items():
    q = augment.mixup(a, b, jnp.asarray(lam, jnp.float32))
    heavy, light = np.where(lam > 0.5, ids_P2.T, ids_P2.T[::-1])
    for metric in augment.METRICS:
      got = np.asarray(project(q, table_VE, usable, metric=metric))
      shares = [(got == heavy).mean(), ((got == light) & (got != heavy)).mean()]
      shares.append(1 - sum(shares))
      lines.append([draw, metric, *(f'{100 * s:.2f} %' for s in shares)])
  print(markdown(['lambda', 'metric', 'heavier', 'lighter', 'third'], lines))
  print(f'\n{n} pairs, seed {_SEED.value}, {jax.devices()[0].device_kind}')


if __name__ == '__main__':
  app.run(main)
