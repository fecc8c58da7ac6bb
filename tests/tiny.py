"""Models, batches and environments small enough for a test, and a config to match."""

import functools
import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import env, methods, net, tasks
from kdjax.data import batches

VOCAB, SPECIAL, LENGTH, MASK = 60, 5, 12, 4  # ids 0 to 4 are special; 0 pads
# Of masked language models: the heads of student and teacher.
HEADS = dict(
  mlm=dict(student_head='mlm'),
  mlm_kd=dict(student_head='mlm', teacher_head='mlm'),
)


def method_names() -> list[str]:
  """The directory listing: a new method is tested before it has a test of its own."""
  return methods.names()


def config_names() -> list[str]:
  """Every config of one method, and those that combine two."""
  here = pathlib.Path(importlib.import_module('configs.common').__file__).parent
  return sorted(f.stem for f in here.glob('*.py') if f.stem not in ('__init__', 'common', 'grid'))


def fields(name: str, **changes):
  """A method's shipped fields."""
  from ml_collections import ConfigDict

  c = ConfigDict(importlib.import_module(f'configs.{name}').methods()[name])
  c.update(changes)
  return c


@functools.cache
def model(
  layers: int, width: int, labels: int, seed: int, dtype: str = 'float32', head: str = 'classify'
):
  """A random BERT."""
  import transformers

  from kdjax.models import hf

  config = transformers.BertConfig(
    vocab_size=VOCAB,
    hidden_size=width,
    num_hidden_layers=layers,
    num_attention_heads=2,
    intermediate_size=2 * width,
    max_position_embeddings=32,
    num_labels=labels,
    initializer_range=0.3,
  )
  return hf.build(config, seed=seed, dtype=dtype, head=head)


def world(
  kind: str = 'classes',
  mismatch: str = '',
  dtype: str = 'float32',
  student_head: str = 'classify',
  teacher_head: str = 'classify',
):
  """(Env, parameters by name): a teacher, a smaller student, a generator of another width."""
  labels = 1 if kind == 'regression' else 3
  teacher, frozen = net.split(model(2, 24, labels, 1, dtype, head=teacher_head))
  student, params = net.split(model(1, 16, labels, 2, dtype, head=student_head))
  generator, writer = net.split(model(1, 12, labels, 3, dtype, head='mlm'))
  ordinary = jnp.arange(VOCAB) >= SPECIAL
  made = env.Env(student, teacher, tasks.KINDS[kind], ordinary, mismatch, generator, MASK)
  return made, dict(student=params, teacher=frozen, generator=writer)


def batch(rng: np.random.Generator, rows: int = 8, kind: str = 'classes') -> dict:
  """Random text with the odd cases: one of special tokens alone, one full row, one short."""
  tokens = rng.integers(SPECIAL, VOCAB, (rows, LENGTH)).astype(np.int32)
  length = rng.integers(3, LENGTH + 1, rows)
  length[:3] = 2, LENGTH, 3
  mask = np.arange(LENGTH)[None] < length[:, None]
  tokens[:, 0] = 2
  tokens[np.arange(rows), length - 1] = 3
  tokens = np.where(mask, tokens, 0)
  label = {
    'classes': lambda: rng.integers(0, 3, rows).astype(np.int32),
    'regression': lambda: rng.random(rows).astype(np.float32),
    'multilabel': lambda: rng.integers(0, 2, (rows, 3)).astype(np.float32),
  }[kind]()
  return dict(
    tokens=tokens,
    segments=np.zeros_like(tokens),
    mask=mask,
    maskable=mask & (tokens >= SPECIAL),
    label=label,
    index=np.arange(rows, dtype=np.int32),
  )


def dataset(kind: str = 'classes', rows: int = 40) -> batches.Dataset:
  """Labels of a training set for a method that remembers its rows; its batches are of `batch`."""
  rng = np.random.default_rng(0)
  label = {
    'classes': rng.permutation(np.arange(rows, dtype=np.int32) % 3),
    'regression': rng.random(rows).astype(np.float32),
    'multilabel': rng.integers(0, 2, (rows, 3)).astype(np.float32),
  }[kind]
  return batches.Dataset(None, label, np.arange(rows, dtype=np.int32), np.ones(VOCAB, bool))


def train_fields(**changes):
  """config.train as shipped, small."""
  from configs import common

  c = common.config('docs', 'kd').train
  c.update(dict(batch_size=8, steps=4, log_every=1, tensorboard=False, warmup=0.0, seed=0))
  c.update(changes)
  return c


def logged(workdir: pathlib.Path) -> list[dict]:
  """Rows of a run's log.jsonl, without what the clock decides."""
  rows = [json.loads(line) for line in (workdir / 'log.jsonl').read_text().splitlines()]
  return [{k: v for k, v in row.items() if k != 'examples_per_second'} for row in rows]


def near(found, wanted, what):
  """All leaves agree but for float32 rounding; what: said where they do not."""
  pairs = zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True)
  for (path, a), b in pairs:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    message = f'{what}: {jax.tree_util.keystr(path)}'
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=message)
