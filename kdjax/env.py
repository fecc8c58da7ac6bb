"""What a method may call that is not an array, and how a config becomes it: models, data, checks.

Everything that can be wrong with a config, a file or a model is found here, before training.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import guard, hosts, net, roles, sharding, tasks, unlabelled
from kdjax.data import batches, images, lengths, sources, tokens
from kdjax.models import families


class Env(NamedTuple):
  """What a method's make(c, env) closes over.

  teacher: None where a masked language model is trained, which is then the student.
  ordinary: bool[V], the ids that augmentation may change or write; None of images.
  mismatch: why teacher and student cannot read the same ids; '' where they can.
  generator: a masked language model with the student's token ids, where a method wants one.
  mask_id: what it reads where a token is hidden; None where the tokenizer has no such token.
  partly: whether rows may lack a gold label: task.loss then leaves them out.
  bounds: (low, high) of the input where it is pixels, embeddings of which are the same numbers;
    None of text.
  """

  student: net.Net
  teacher: net.Net | None
  task: tasks.Task
  ordinary: jax.Array | None
  mismatch: str = ''
  generator: net.Net | None = None
  mask_id: int | None = None
  partly: bool = False
  bounds: tuple[float, float] | None = None

  @property
  def images(self) -> bool:
    """Whether the input is images."""
    return self.bounds is not None


class Plan(NamedTuple):
  """A checked config: nothing has been trained, nothing but the token cache written.

  teacher, student: None where a masked language model is trained alone. generator: None where no
  method wants one. env: of the student; of the generator where it is alone.
  """

  c: Any
  spec: tasks.Spec
  text: sources.Text
  teacher: roles.Model | None
  student: roles.Model | None
  generator: roles.Model | None
  data: dict[str, batches.Dataset]
  env: Env
  mesh: Any
  workdir: pathlib.Path

  def learned(self, gold: bool) -> batches.Dataset:
    """What is learned from; gold: of rows with a label alone, where there are others beside them.

    Those without come first (_transfer).
    """
    data, train = self.data['train'], self.text.splits.get('train')
    if not gold or train is None:
      return data
    return batches.part(data, slice(len(data.index) - len(train.first), None))

  @property
  def scoring(self) -> tuple[int, tuple[int, ...], Any]:
    """Of batches that are scored: rows, lengths, the mesh; the same whatever was trained."""
    c = self.c.data
    shapes = lengths.SCORED if c.buckets == lengths.AUTO else c.buckets
    return self.c.eval.batch_size, lengths.upto(shapes, c.max_length), self.mesh


def settle(c):
  """The config with what depends on the task filled in: max_length, buckets, source."""
  c = c.copy_and_resolve_references()
  spec = tasks.resolve(c)
  c.task.name = spec.name
  if not c.data.source:
    c.data.source = _source(c.data, spec)
  c.data.max_length = c.data.max_length or (32 if spec.name == 'docs' else 128)
  c.data.buckets = lengths.settled(c.data.buckets, c.data.max_length)
  for name, value, low in (
    ('seeds', c.seeds, 1),
    ('train.batch_size', c.train.batch_size, 1),
    ('train.accumulate', c.train.accumulate, 1),
    ('train.steps_per_call', c.train.steps_per_call, 1),
    ('train.resident', c.train.resident, 0),
    ('eval.batch_size', c.eval.batch_size, 1),
    ('data.max_length', c.data.max_length, 4),
    ('data.neighbours', c.data.neighbours, 1),
    ('data.new_pairs', c.data.new_pairs, 0),
    ('train.log_every', c.train.log_every, 1),
    ('train.keep', c.train.keep, 1),
    ('generator.layers', c.generator.layers, 0),
  ):
    if value < low:
      raise ValueError(f'config.{name}={value} must be at least {low}')
  for name, value, known in (
    ('train.dtype', c.train.dtype, families.DTYPES),
    ('train.attention', c.train.attention, families.ATTENTION),
    ('train.remat', c.train.remat, families.REMAT),
    ('train.prng', c.train.prng, ('threefry2x32', 'rbg', 'unsafe_rbg')),
    ('train.nonfinite', c.train.nonfinite, guard.POLICIES),
    ('teacher.cache', c.teacher.cache, ('auto', 'always', 'never')),
  ):
    if value not in known:
      raise ValueError(f'config.{name}={value!r} is none of {", ".join(known)}')
  if c.seeds > 1 and c.train.prng != 'threefry2x32':
    raise ValueError(
      f'config.train.prng={c.train.prng!r} draws for one of config.seeds={c.seeds} otherwise than '
      "for it alone: set it to 'threefry2x32'"
    )
  if c.train.attention == 'cudnn':
    odd = [n for n in (c.data.max_length, *c.data.buckets) if isinstance(n, int) and n % 2]
    if c.seeds > 1 or odd:
      raise ValueError(
        "config.train.attention='cudnn' is of one seed and of even lengths: set it to 'einsum', or "
        f'config.seeds={c.seeds} to 1, and config.data.max_length={c.data.max_length} and '
        'config.data.buckets to even numbers'
      )
  return c, spec


def _source(c, spec: tasks.Spec) -> str:
  """Where a task's data are where config.data.source does not say it."""
  if spec.name == 'text':
    return 'unlabelled'
  if c.train or spec.name == 'images':
    return 'files'
  if spec.name in ('docs', 'digits'):
    return spec.name
  if c.dir:
    return 'local'
  return 'tfds' if spec.images else 'hub'


def read(c) -> tuple[Any, tasks.Spec, sources.Text]:
  """The settled config, its task with class names, and the text (train already subset)."""
  c, spec = settle(c)
  text = sources.read(c.data, spec)
  if spec.kind != 'regression' and spec.label:
    spec = tasks.with_labels(spec, spec.labels or text.labels)
  if spec.images:
    spec = dataclasses.replace(spec, shape=next(iter(text.splits.values())).first.shape[1:])
  if 'test' in text.splits and labelled(text.splits['test']):
    # Where its labels are public it is scored: nothing was chosen on it.
    spec = dataclasses.replace(spec, evaluation=tuple(dict.fromkeys((*spec.evaluation, 'test'))))
  if c.data.development:
    spec, text = _develop(c.data, spec, text)
  if 'train' in text.splits:
    few = sources.subset(
      text.splits['train'], c.data.train_fraction, c.data.train_size, c.data.seed, spec.kind
    )
    text = text._replace(splits=text.splits | {'train': few})
  elif c.data.train_fraction != 1 or c.data.train_size:
    raise ValueError(
      f'config.data.train_fraction={c.data.train_fraction} and train_size={c.data.train_size} are '
      'of rows with labels, and there are none: set them to 1.0 and 0, and name fewer files'
    )
  return c, spec, text


def _develop(c, spec: tasks.Spec, text: sources.Text) -> tuple[tasks.Spec, sources.Text]:
  """A part of train becomes the split that chooses the checkpoint; the task's own are scored."""
  if 'train' not in text.splits:
    raise ValueError(f'config.data.development={c.development}, and no train split: set it to 0')
  train = text.splits['train']
  size = len(train.first)
  rows = round(c.development if c.development >= 1 else c.development * size)
  if not 0 < rows < size:
    raise ValueError(
      f'config.data.development={c.development} of {size} training rows leaves nothing on one '
      'side: it is a share of them, or a number from 1 on'
    )
  rest, held = sources.hold_out(train, rows / size, c.seed, spec.kind)
  splits = dict(train=rest, development=held)
  splits |= {name: table for name, table in text.splits.items() if name != 'train'}
  origin = f'{text.origin} Development: {len(held.first)} rows held out of train.'
  spec = dataclasses.replace(spec, evaluation=('development', *spec.evaluation))
  return spec, text._replace(splits=splits, origin=origin)


def prepare(
  c,
  workdir: pathlib.Path,
  finished: Mapping[str, pathlib.Path],
  cast: tuple[str, ...] = ('teacher', 'student'),
  masked: bool = False,
) -> Plan:
  """Read, load and check everything.

  Args:
    c: the whole config.
    workdir: where the token cache goes.
    finished: folders of a teacher and a generator that were trained before, by these names.
    cast: the models that are needed: teacher and student, those and the generator, or it alone.
    masked: teacher and student are masked language models too: only then unlabelled text is read.

  Raises:
    ValueError, OSError: with the file, row, field or key, and the remedy.
  """
  c, spec, text = read(c)
  unlabelled.check(c, spec, masked)
  mesh = sharding.make_mesh(**c.mesh)
  sharding.check_batch(mesh, c.eval.batch_size, 1, 'eval.batch_size')
  teacher = student = generator = None
  mismatch = ''
  if 'student' in cast:
    head = 'mlm' if masked else 'classify'
    teacher = _onto(mesh, roles.teacher(c, spec, finished.get('teacher'), head))
    student = roles.student(c, spec, teacher, head)
    if not spec.images:
      mismatch = tokens.same_ids(teacher.tokenizer, student.tokenizer)
    if masked and mismatch:
      raise ValueError(
        f'{c.name} compares guesses of the same tokens, but {mismatch}: config.student.init must '
        "name a model with the teacher's tokenizer ('teacher' and 'random' have it)"
      )
  if 'generator' in cast:
    generator = roles.generator(c, finished.get('generator'))
    if student:
      _same_words(generator, student, mismatch)
  learner = student or generator
  if spec.images:
    data = {name: images.dataset(table) for name, table in text.splits.items()}
  else:
    with hosts.in_turn():  # the others find the caches
      folder, data = cache(c, workdir), {}
      if unlabelled.beside(c) and not masked:
        readers = [model.tokenizer for model in (learner, teacher)[: 1 + bool(mismatch)]]
        usable = _ordinary(learner, teacher)
        text, data['train'] = unlabelled.beside_train(c, spec, text, readers, usable, folder)
      elif c.data.unlabelled:
        usable = _ordinary(learner, learner)
        text, data['train'] = unlabelled.alone(c, text, learner.tokenizer, usable, folder)
      rest = {name: table for name, table in text.splits.items() if name not in data}
      rest = text._replace(splits=rest)
      data = _tokenise(c, rest, learner, teacher or learner, mismatch, workdir) | data
  world = make(c, spec, learner, teacher, student and generator, mismatch)
  return Plan(c, spec, text, teacher, student, generator, data, world, mesh, workdir)


def _onto(mesh, teacher: roles.Model) -> roles.Model:
  """The teacher on the mesh: the largest of them all, and no whole copy of it stays behind."""
  params = net.split(teacher.module)[1]
  placed = sharding.place(dict(teacher=params), mesh)['teacher']
  return teacher._replace(module=net.fill(teacher.module, placed))


def cache(c, workdir) -> pathlib.Path:
  """Where what can be computed again is kept."""
  return pathlib.Path(c.data.cache) if c.data.cache else workdir / 'cache'


def _same_words(generator: roles.Model, student: roles.Model, mismatch: str) -> None:
  """ValueError unless what the generator writes is for student and teacher alike."""
  if mismatch:
    raise ValueError(f'a generator writes one text for teacher and student, but {mismatch}')
  differ = tokens.same_ids(generator.tokenizer, student.tokenizer)
  if differ:
    raise ValueError(
      f'the generator writes for teacher and student, but {differ}: config.generator.init must '
      "name a model with their tokenizer ('teacher' is one)"
    )
  tokens.ordinary(generator.tokenizer, generator.config.vocab_size)  # its table has all of them


def make(
  c,
  spec: tasks.Spec,
  student: roles.Model,
  teacher: roles.Model | None = None,
  generator: roles.Model | None = None,
  mismatch: str = '',
  gold: bool = False,
) -> Env:
  """The models cut into functions; gold: for what learns from rows with a label alone."""
  nets = [m and net.split(m.module)[0] for m in (student, teacher, generator)]
  if mismatch and teacher:
    nets[1] = dataclasses.replace(nets[1], view='teacher_')
  if not c.train.dropout:
    nets[0], nets[2] = quiet(nets[0]), nets[2] and quiet(nets[2])
  if spec.images:
    return Env(nets[0], nets[1], tasks.KINDS[spec.kind], None, bounds=(0.0, 1.0))
  task, partly = tasks.KINDS[spec.kind], unlabelled.beside(c) and not gold
  return Env(
    nets[0],
    nets[1],
    tasks.partly(task) if partly else task,
    jnp.asarray(_ordinary(student, teacher or student)),
    mismatch,
    nets[2],
    (generator or student).tokenizer.mask_token_id,
    partly,
  )


def _ordinary(student: roles.Model, teacher: roles.Model) -> np.ndarray:
  size = max(m.config.vocab_size for m in (student, teacher))
  return tokens.ordinary(student.tokenizer, size)


def quiet(noisy: net.Net) -> net.Net:
  """The same net with dropout off, whatever key it is given."""
  return dataclasses.replace(
    noisy,
    encode=lambda params, e, mask, segments, key=None: noisy.encode(params, e, mask, segments),
  )


def datasets(plan: Plan, tables: Mapping[str, sources.Table]) -> dict[str, batches.Dataset]:
  """More text, as the models of a plan read it; token ids are kept as those of its own splits."""
  if not tables:
    return {}
  text = plan.text._replace(splits=tables)
  return _tokenise(plan.c, text, plan.student, plan.teacher, plan.env.mismatch, plan.workdir)


def _tokenise(c, text, student: roles.Model, teacher: roles.Model, mismatch: str, workdir) -> dict:
  folder = cache(c, workdir)
  usable = _ordinary(student, teacher)
  out = {}
  for name, table in text.splits.items():
    ours = tokens.tokenise(table, student.tokenizer, c.data.max_length, folder)
    theirs = None
    if mismatch:
      theirs = tokens.tokenise(table, teacher.tokenizer, c.data.max_length, folder)
    out[name] = batches.Dataset(ours, table.label, table.index, usable, theirs)
  return out


def labelled(data: batches.Dataset) -> bool:
  """Whether every row has a public label."""
  return bool(sources.labelled(data.label).all())
