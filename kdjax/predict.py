"""A distilled model as a function from text, or images, to probabilities; and for files of rows.

python -m kdjax.predict DIR --data=rows.csv --out=predicted.csv
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from kdjax import evaluate, log, metrics, net, quote, rowwise, sharding, tasks
from kdjax.data import batches, images, lengths, sources, tokens
from kdjax.models import hf, vision_files

Inputs = Sequence[str | tuple[str, str]] | np.ndarray


class Texts(NamedTuple):
  """How a model gets text: single ones, or pairs."""

  tokenizer: Any
  vocab_size: int
  max_length: int

  def parts(self, inputs: Inputs) -> tuple[list[str], list[str] | None]:
    """(first texts, second ones or None)."""
    if isinstance(inputs, str):
      raise ValueError(f'{quote.value(inputs)} is one text: a list of texts is asked for')
    pairs = [t if isinstance(t, tuple) else (t, None) for t in inputs]
    if len({b is None for _, b in pairs}) > 1:
      raise ValueError('single texts and pairs do not go into one call')
    single = not pairs or pairs[0][1] is None
    first = sources.strings([a for a, _ in pairs], 'texts')
    return first, None if single else sources.strings([b for _, b in pairs], 'second texts')

  def check(self, pair: bool = False) -> None:
    """ValueError where there is no room for text, or the tokenizer is for less of it."""
    try:
      tokens.check(self.tokenizer, self.max_length, pair)
    except ValueError as error:
      raise ValueError(str(error).replace('config.data.', '')) from None

  def dataset(self, table: sources.Table) -> batches.Dataset:
    """Token ids."""
    return self._rows(table, tokens.tokenise(table, self.tokenizer, self.max_length, None))

  def few(self, first: list[str], second: list[str] | None) -> batches.Dataset:
    """Token ids of texts that somebody waits for: without a check and a line in the log."""
    table = _table(first, second)
    return self._rows(table, tokens.encode(table, self.tokenizer, self.max_length)[0])

  def blank(self, n: int, length: int) -> batches.Dataset:
    """n texts of so many tokens."""
    ids = np.zeros((n, self.max_length), np.int32)
    table = _table([''] * n, None)
    return self._rows(table, tokens.Tokens(ids, ids, np.full(n, length, np.int32)))

  def _rows(self, table: sources.Table, ids: tokens.Tokens) -> batches.Dataset:
    return batches.Dataset(ids, table.label, table.index, np.ones(self.vocab_size, bool))


class Images(NamedTuple):
  """How a model gets images: u8, or floats in [0, 1], [n, H, W, C], or [n, H, W] of one channel."""

  shape: tuple[int, ...]

  def parts(self, inputs: Inputs) -> tuple[np.ndarray, None]:
    """([n, H, W, C], u8 or f32; None)."""
    if not len(inputs):
      return np.zeros((0, *self.shape), np.uint8), None
    pixels = images.numbers_of(inputs, 'images')
    if pixels.shape[1:] != self.shape:
      raise ValueError(f'images are {pixels.shape[1:]}, the model reads {self.shape}')
    return pixels, None

  def dataset(self, table: sources.Table) -> batches.Dataset:
    """Pixels."""
    return images.dataset(table)

  def few(self, first: np.ndarray, second: None) -> batches.Dataset:
    """The same."""
    return self.dataset(_table(first, second))


def _table(first, second) -> sources.Table:
  """Rows without labels."""
  n = len(first)
  return sources.Table(first, second, np.zeros(n, np.int32), np.arange(n, dtype=np.int32))


class Classifier:
  """clf(['text', ...]), clf([('a', 'b'), ...]) or clf(images) -> probabilities f32[n, C].

  Of regression, scores f32[n]. labels: class names, in the order of the columns; () for regression.
  """

  def __init__(self, module, config, tokenizer, batch_size: int, max_length: int | None, mesh=None):
    if isinstance(config, vision_files.Config):
      self._reader, buckets = Images(config.shape), ()
    elif tokenizer is None:
      raise ValueError('the model has no tokenizer files: it cannot read text')
    else:
      if max_length is None:
        max_length = hf.length_of(config, tokenizer)
      max_length = min(max_length, module.spec.max_length)
      self._reader = Texts(tokenizer, config.vocab_size, max_length)
      self._reader.check()
      buckets = lengths.upto(lengths.SCORED, max_length)
    kinds = {problem: kind for kind, problem in tasks.PROBLEM_TYPES.items()}
    fallback = 'regression' if config.num_labels == 1 else 'classes'
    self.kind = kinds.get(config.problem_type, fallback)
    names = (config.id2label[i] for i in range(config.num_labels))
    self.labels = () if self.kind == 'regression' else tuple(names)
    if self.kind == 'regression' and config.num_labels != 1:
      raise ValueError(f'the model has {config.num_labels} scores a text: one is read here')
    if len(set(self.labels)) < len(self.labels):
      raise ValueError(f'two classes of the model have one name: {quote.names(self.labels)}')
    self._mesh = mesh or sharding.make_mesh()
    cut, params = net.split(module)
    self._params = sharding.place(params, self._mesh)
    self._forward = evaluate.forward(cut, self._mesh)
    self._batch_size = -(-batch_size // self._mesh.rows) * self._mesh.rows
    self._buckets = buckets
    halves = (self._mesh.rows << k for k in range(self._batch_size.bit_length()))
    self.sizes = self._batch_size, buckets  # of the programs that compute
    self._sizes = (*(n for n in halves if n < self._batch_size), self._batch_size)

  def __call__(self, inputs: Inputs) -> np.ndarray:
    """Probabilities f32[n, C]: softmax, or a sigmoid per label; scores f32[n] for regression."""
    first, second = self._reader.parts(inputs)
    if not len(first):
      return np.zeros((0, len(self.labels)) if self.labels else (0,), np.float32)
    return self._probabilities(self.logits(first, second))

  def logits(self, first: list[str] | np.ndarray, second: list[str] | None = None) -> np.ndarray:
    """f32[n, C] of texts, pairs of texts, or images [n, H, W, C]."""
    return self._rows(self._reader.dataset(_table(first, second)), self._batch_size)

  def rows(self, first: list[str] | np.ndarray, second: list[str] | None) -> np.ndarray:
    """As a call, of some of the many rows of a file: no line in the log."""
    return self._probabilities(self._rows(self._reader.few(first, second), self._batch_size))

  def _rows(self, data: batches.Dataset, batch_size: int) -> np.ndarray:
    return evaluate.logits(self._forward, self._params, data, batch_size, self._buckets, self._mesh)

  def at_once(self, inputs: Sequence[str | tuple[str, str]]) -> np.ndarray:
    """As a call, of some texts that somebody waits for: none is padded to another's length.

    Each length goes by itself through the smallest program that has room for its rows, and all of
    these programs are known: `warm` compiles them.
    """
    data = self._reader.few(*self._reader.parts(inputs))
    bucket = np.searchsorted(self._buckets, data.tokens.length)
    out = {}
    for rows in (np.flatnonzero(bucket == k) for k in np.unique(bucket)):
      size = next((n for n in self._sizes if n >= len(rows)), self._batch_size)
      out |= zip(rows, self._rows(batches.part(data, rows), size), strict=True)
    return self._probabilities(np.stack([out[i] for i in range(len(out))]))

  def warm(self) -> list[tuple[int, int]]:
    """Compiles what `at_once` calls: (rows, tokens) of each program.

    Raises:
      ValueError: there is no room for text in the model's length, or the model reads images.
    """
    if isinstance(self._reader, Images):
      raise ValueError('the model reads images, not text')
    self._reader.check(pair=True)
    shapes = [(n, length) for n in self._sizes for length in self._buckets]
    for n, length in shapes:
      self._rows(self._reader.blank(n, length), n)
    return shapes

  def _probabilities(self, logits_BC: np.ndarray) -> np.ndarray:
    # On the host: jax would compile a program for every number of rows.
    if self.kind == 'classes':
      return special.softmax(logits_BC, axis=-1)
    return logits_BC[:, 0] if self.kind == 'regression' else special.expit(logits_BC)

  def check(self, spec: tasks.Spec) -> None:
    """ValueError unless the model is one of this task's kind and classes."""
    if (self.kind, self.labels) != (spec.kind, tuple(spec.labels)):
      raise ValueError(
        f'the model predicts {self.kind} {self.labels}, but task {spec.name} is '
        f'{spec.kind} {spec.labels}'
      )

  def score(self, table: sources.Table, spec: tasks.Spec) -> dict[str, float]:
    """Metrics of the task on rows that all have a label."""
    logits_NC = self.logits(table.first, table.second)
    decision = np.asarray(tasks.KINDS[self.kind].decide(logits_NC))
    return metrics.compute(spec.metrics, decision, table.label, logits_NC.shape[1])


def load(
  dir_or_id: str, batch_size: int = 64, max_length: int | None = None, mesh=None
) -> Classifier:
  """A classifier from a HuggingFace folder or id, or a folder of a model of images: kdjax.load.

  max_length: tokens of a text, longer ones are cut; None: as in training, 128 where the folder does
  not say. mesh: of sharding.make_mesh; None: whole on every device.
  """
  if vision_files.holds(dir_or_id):
    return Classifier(*vision_files.load(dir_or_id), None, batch_size, max_length, mesh)
  return Classifier(*hf.load(str(dir_or_id)), batch_size, max_length, mesh)


def of_text(dir_or_id: str, batch_size: int, max_length: int | None) -> Classifier:
  """The same; ValueError where the model reads images."""
  if vision_files.holds(dir_or_id):
    raise ValueError(f'{dir_or_id} reads images, not text: kdjax.load has a classifier of them')
  return load(dir_or_id, batch_size, max_length)


def file(
  clf: Classifier,
  model: str,
  data: pathlib.Path,
  text: str,
  pair: str,
  out: pathlib.Path,
  prefix: str = '',
  flags: tuple[str, str] = ('--text', '--pair'),
) -> int:
  """Predictions beside the rows of a file, in another one (rowwise.predict): how many.

  model: the folder or id that the classifier is of. flags: as of rowwise.of_file.
  """
  found = rowwise.of_file(data, text, pair, flags)
  rowwise.predict(clf, found, out, prefix, _decides(clf, model))
  return found.n


def split(clf: Classifier, model: str, table: sources.Table, out: pathlib.Path) -> int:
  """The same of the rows of a split."""
  rowwise.predict(clf, rowwise.of_table(table), out, '', _decides(clf, model))
  return len(table.first)


def _decides(clf: Classifier, model: str) -> list:
  """What predictions follow from, beside the rows: files of the model, sizes of its programs."""
  where = pathlib.Path(model)
  files = sorted(f for f in where.glob('*') if f.is_file()) if where.is_dir() else []
  return [model, clf.sizes, [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]]


def main(argv: list[str] | None = None) -> None:
  """The command line; bad input is one line."""
  parser = argparse.ArgumentParser(
    description='Predictions beside the rows of a file. Started again after a kill, it goes on.'
  )
  parser.add_argument('model', help="a model's folder or HuggingFace id")
  parser.add_argument('--data', required=True, type=pathlib.Path, help='csv, tsv, jsonl or parquet')
  parser.add_argument(
    '--out', required=True, type=pathlib.Path, help='file to write, of any of these kinds'
  )
  parser.add_argument('--text', default='text', help='column of the text')
  parser.add_argument('--pair', default='', help='column of the second text')
  parser.add_argument('--prefix', default='', help='of the names of the new columns')
  parser.add_argument('--batch_size', default=64, type=int)
  parser.add_argument(
    '--max_length', type=int, help='tokens of a text, longer ones are cut (as in training, or 128)'
  )
  parser.add_argument('--debug', action='store_true', help='a traceback of an error')
  asked = parser.parse_args(argv)
  log.setup()
  try:
    clf = of_text(asked.model, asked.batch_size, asked.max_length)
    n = file(clf, asked.model, asked.data, asked.text, asked.pair, asked.out, asked.prefix)
  except (ValueError, OSError) as error:
    if asked.debug:
      raise
    sys.exit(f'error: {quote.line(error)}')
  except KeyboardInterrupt:
    sys.exit(f'stopped: the same command goes on; {asked.out}.parts has what is done')
  print(f'{n:,} rows: {asked.out}')


if __name__ == '__main__':
  main()
