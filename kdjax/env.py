"""What a method may call that is not an array, and how a config becomes it: models, data, checks.

Everything that can be wrong with a config, a file or a model is found here, before training.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import net, sharding, tasks
from kdjax.data import batches, sources, tokens
from kdjax.models import hf, students


class Env(NamedTuple):
  """What a method's make(c, env) closes over.

  ordinary: bool[V], the ids that augmentation may change or write.
  mismatch: why teacher and student cannot read the same ids; '' where they can.
  generator: a masked language model with the student's token ids, where a method wants one.
  mask_id: what it reads where a token is hidden.
  """

  student: net.Net
  teacher: net.Net
  task: tasks.Task
  ordinary: jax.Array
  mismatch: str = ''
  generator: net.Net | None = None
  mask_id: int | None = None


class Model(NamedTuple):
  """A module with what is needed to run and to save it."""

  module: Any
  config: Any
  tokenizer: Any

  @property
  def parameters(self) -> int:
    """Their number."""
    return sum(p.size for p in jax.tree.leaves(net.split(self.module)[1]))


class Plan(NamedTuple):
  """A checked config: nothing has been trained, nothing but the token cache written."""

  c: Any
  spec: tasks.Spec
  text: sources.Text
  teacher: Model
  student: Model
  data: dict[str, batches.Dataset]
  env: Env
  mesh: Any
  workdir: pathlib.Path


def settle(c):
  """The config with what depends on the task filled in: max_length, buckets, source."""
  c = c.copy_and_resolve_references()
  spec = tasks.resolve(c)
  c.task.name = spec.name
  if not c.data.source:
    c.data.source = (
      'docs'
      if spec.name == 'docs'
      else 'files'
      if c.data.train
      else 'local'
      if c.data.dir
      else 'hub'
    )
  c.data.max_length = c.data.max_length or (32 if spec.name == 'docs' else 128)
  c.data.buckets = batches.lengths(c.data.buckets, c.data.max_length)
  for name, value, low in (
    ('train.batch_size', c.train.batch_size, 1),
    ('train.accumulate', c.train.accumulate, 1),
    ('eval.batch_size', c.eval.batch_size, 1),
    ('data.max_length', c.data.max_length, 4),
    ('train.log_every', c.train.log_every, 1),
  ):
    if value < low:
      raise ValueError(f'config.{name}={value} must be at least {low}')
  return c, spec


def read(c) -> tuple[Any, tasks.Spec, sources.Text]:
  """The settled config, its task with class names, and the text (train already subset)."""
  c, spec = settle(c)
  text = sources.read(c.data, spec)
  if spec.kind != 'regression' and not spec.labels:
    spec = tasks.with_labels(spec, text.labels)
  if 'train' in text.splits:
    few = sources.subset(
      text.splits['train'], c.data.train_fraction, c.data.train_size, c.data.seed, spec.kind
    )
    text = text._replace(splits=text.splits | {'train': few})
  return c, spec, text


def prepare(c, workdir: pathlib.Path, teacher_dir: pathlib.Path | None = None) -> Plan:
  """Read, load and check everything.

  Args:
    c: the whole config.
    workdir: where the token cache goes.
    teacher_dir: a teacher that was fine-tuned before, to be used as it is.

  Raises:
    ValueError, OSError: with the file, row, field or key, and the remedy.
  """
  c, spec, text = read(c)
  mesh = sharding.make_mesh(c.mesh.data)
  sharding.check_batch(mesh, c.train.batch_size, c.train.accumulate, 'train.batch_size')
  sharding.check_batch(mesh, c.eval.batch_size, 1, 'eval.batch_size')
  teacher = load_teacher(c, spec, teacher_dir)
  student = build_student(c, spec, teacher)
  mismatch = tokens.same_ids(teacher.tokenizer, student.tokenizer)
  data = _tokenise(c, text, teacher, student, mismatch, workdir)
  return Plan(
    c, spec, text, teacher, student, data, make(c, spec, teacher, student, mismatch), mesh, workdir
  )


def make(c, spec: tasks.Spec, teacher: Model, student: Model, mismatch: str) -> Env:
  """The models cut into functions."""
  nets = [net.split(m.module)[0] for m in (student, teacher)]
  if mismatch:
    nets[1] = dataclasses.replace(nets[1], view='teacher_')
  if not c.train.dropout:
    nets[0] = quiet(nets[0])
  size = max(m.config.vocab_size for m in (student, teacher))
  return Env(
    nets[0],
    nets[1],
    tasks.KINDS[spec.kind],
    jnp.asarray(tokens.ordinary(student.tokenizer, size)),
    mismatch,
  )


def quiet(noisy: net.Net) -> net.Net:
  """The same net with dropout off, whatever key it is given."""
  return dataclasses.replace(
    noisy,
    encode=lambda params, e, mask, segments, key=None: noisy.encode(params, e, mask, segments),
  )


def load_teacher(c, spec: tasks.Spec, finished: pathlib.Path | None = None) -> Model:
  """The fine-tuned teacher where there is one, else what it starts from."""
  where = str(finished) if finished else c.teacher.init
  if where == 'minilm':
    where = str(hf.minilm())
  fresh = c.teacher.finetune and not finished
  found = hf.read(
    where,
    spec.num_labels,
    dtype=c.train.dtype,
    attention=c.train.attention,
    seed=c.seed,
    fresh_head=fresh,
  )
  if found.fresh and not fresh:
    raise ValueError(
      f'teacher {where} has no trained classifier ({", ".join(found.fresh[:3])} missing): '
      f'set config.teacher.finetune=True, or name a fine-tuned one'
    )
  if not fresh:
    _same_order(found.config, where, spec)
  return _checked(Model(found.module, found.config, found.tokenizer), where, c, spec)


def _same_order(config, where: str, spec: tasks.Spec) -> None:
  """ValueError where a teacher's classes are the task's in another order (MNLI's often are)."""
  names = [str(config.id2label[i]).lower() for i in range(config.num_labels)]
  ours = [name.lower() for name in spec.labels]
  if names != ours and sorted(names) == sorted(ours):
    raise ValueError(
      f'teacher {where} numbers its classes {names}, the data {ours}: every label would be taken '
      f'for another. Reorder id2label and the rows of its classifier, or set '
      f'config.teacher.finetune=True'
    )


def build_student(c, spec: tasks.Spec, teacher: Model) -> Model:
  """Cut from the teacher, random, or from a checkpoint."""
  how = c.student
  if how.init == 'teacher':
    layers = how.layers
    if how.pick[:1].isdigit():
      if not all(part.strip().isdigit() for part in how.pick.split(',')):
        raise ValueError(f'config.student.pick={how.pick!r}: layers by commas, like 0,3,5')
      layers = tuple(int(part) for part in how.pick.split(','))
    return Model(*students.cut(teacher.module, teacher.config, layers, how.pick), teacher.tokenizer)
  knobs = dict(dtype=c.train.dtype, attention=c.train.attention, seed=c.seed)
  if how.init == 'random':
    sizes = dict(width=how.width or None, heads=how.heads or None, ffn=how.ffn or None)
    made = students.random(teacher.config, layers=how.layers, **sizes, head='classify', **knobs)
    return Model(*made, teacher.tokenizer)
  where = str(hf.minilm()) if how.init == 'minilm' else how.init
  found = hf.read(where, spec.num_labels, fresh_head=True, **knobs)
  return _checked(Model(found.module, found.config, found.tokenizer), where, c, spec)


def _checked(model: Model, where: str, c, spec: tasks.Spec) -> Model:
  if model.tokenizer is None:
    raise ValueError(f'{where} has no tokenizer files (tokenizer.json or vocab.txt)')
  room = model.module.spec.max_length
  if c.data.max_length > room:
    raise ValueError(f'config.data.max_length={c.data.max_length}, but {where} reads {room} tokens')
  model.config.problem_type = spec.problem_type
  return model


def _tokenise(c, text, teacher: Model, student: Model, mismatch: str, workdir) -> dict:
  cache = pathlib.Path(c.data.cache) if c.data.cache else workdir / 'cache'
  size = max(m.config.vocab_size for m in (student, teacher))
  usable = tokens.ordinary(student.tokenizer, size)
  out = {}
  for name, table in text.splits.items():
    ours = tokens.tokenise(table, student.tokenizer, c.data.max_length, cache)
    theirs = None
    if mismatch:
      theirs = tokens.tokenise(table, teacher.tokenizer, c.data.max_length, cache)
    out[name] = batches.Dataset(ours, table.label, table.index, usable, theirs)
  return out


def labelled(data: batches.Dataset) -> bool:
  """Whether every row has a public label."""
  label = data.label
  return bool((label >= 0).all() if label.dtype.kind == 'i' else not np.isnan(label).any())
