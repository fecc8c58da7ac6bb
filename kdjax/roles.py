"""Teacher, student and generator: what a config asks for becomes a checked model.

Those of images are words for an architecture, or folders; they have no tokenizer.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax

from kdjax import net, tasks
from kdjax.models import hf, students, vision_files


class Model(NamedTuple):
  """A module with what is needed to run and to save it."""

  module: Any
  config: Any
  tokenizer: Any

  @property
  def parameters(self) -> int:
    """Their number."""
    return sum(p.size for p in jax.tree.leaves(net.split(self.module)[1]))


def teacher(
  c, spec: tasks.Spec, finished: pathlib.Path | None = None, head: str = 'classify'
) -> Model:
  """The fine-tuned teacher where there is one, else what it starts from.

  head: 'classify', or 'mlm' where teacher and student are masked language models.
  """
  fresh = c.teacher.finetune and not finished
  if spec.images:
    return _vision(c, spec, str(finished or c.teacher.init), 'teacher', fresh)
  where = _path(finished or c.teacher.init)
  if head == 'mlm':
    model, missing = _masked(where, c, 'teacher')
    if missing and not fresh:
      raise ValueError(
        f'teacher {where} has no masked-LM head ({", ".join(missing[:3])} missing), and nothing to '
        'teach: set config.teacher.finetune=True, or name a masked language model as '
        'config.teacher.init (configs/mlm.py trains one)'
      )
    return model
  found = hf.read(where, spec.num_labels, **_knobs(c), fresh_head=fresh)
  if found.fresh and not fresh:
    raise ValueError(
      f'teacher {where} has no trained classifier ({", ".join(found.fresh[:3])} missing): '
      f'set config.teacher.finetune=True, or name a fine-tuned one'
    )
  if not fresh:
    _same_order(found.config, where, spec)
  return _classifier(found, where, c, spec)


def student(c, spec: tasks.Spec, teacher: Model, head: str = 'classify') -> Model:
  """Cut from the teacher, random, or from a checkpoint; head as of `teacher`."""
  how = c.student
  if spec.images:
    return _vision(c, spec, how.init, 'student', True)
  _no_sizes(how, 'student')
  if how.init == 'teacher':
    layers = how.layers
    if how.pick[:1].isdigit():
      if not all(part.strip().isdigit() for part in how.pick.split(',')):
        raise ValueError(f'config.student.pick={how.pick!r}: layers by commas, like 0,3,5')
      layers = tuple(int(part) for part in how.pick.split(','))
    return Model(*students.cut(teacher.module, teacher.config, layers, how.pick), teacher.tokenizer)
  if how.init == 'random':
    made = students.random(teacher.config, layers=how.layers, **_sizes(how), head=head, **_knobs(c))
    return Model(*made, teacher.tokenizer)
  where = _path(how.init)
  if head == 'mlm':
    return _masked(where, c, 'student')[0]
  found = hf.read(where, spec.num_labels, fresh_head=True, **_knobs(c))
  return _classifier(found, where, c, spec)


def generator(c, finished: pathlib.Path | None = None) -> Model:
  """A masked language model: the trained one where there is one, else what it starts from.

  One that is to be trained may be cut to its first layers; one that is not is taken whole, and
  must have a trained head.
  """
  how = c.generator
  _no_sizes(how, 'generator')
  named = c.teacher.init if how.init in ('teacher', 'random') else how.init
  where = _path(finished or named)
  model, fresh = _masked(where, c, 'generator')
  if finished:
    if fresh:
      raise ValueError(f'{where} is no masked language model: {", ".join(fresh[:3])} missing')
    return model
  random = how.init == 'random'
  if (fresh or random) and not (how.finetune or how.fresh_head):
    what = 'random weights' if random else f'no masked-LM head ({", ".join(fresh[:3])})'
    raise ValueError(
      f'the generator {where} has {what}, and would write uniform noise: set '
      'config.generator.finetune=True, name a masked language model as config.generator.init, or '
      'ask for the noise by config.generator.fresh_head=True'
    )
  n = model.module.spec.layers
  if random:
    sizes = _sizes(how) | dict(layers=how.layers or n)
    return Model(*students.random(model.config, **sizes, head='mlm', **_knobs(c)), model.tokenizer)
  if not how.finetune or how.layers in (0, n):
    return model
  if how.layers > n:
    raise ValueError(f'config.generator.layers={how.layers}, but {where} has {n}; 0 keeps all')
  return Model(*students.cut(model.module, model.config, how.layers, 'first'), model.tokenizer)


def load(c, spec: tasks.Spec, where: pathlib.Path, head: str = 'classify') -> Model:
  """A model that a run saved; head as of `teacher`."""
  if spec.images:
    return Model(*vision_files.load(where, c.train.dtype), None)
  classes = None if head == 'mlm' else spec.num_labels
  found = hf.read(str(where), classes, head=head, **_knobs(c))
  return Model(found.module, found.config, found.tokenizer)


def save(
  model: Model, where: pathlib.Path, labels: tuple[str, ...], card: str, max_length: int
) -> None:
  """Into a folder that load, and kdjax.load, read; max_length: of the texts it was trained on."""
  if model.tokenizer is None:
    vision_files.save(where, model.module, model.config, labels=labels, card=card)
  else:
    said = dict(labels=labels or None, card=card, max_length=max_length)
    hf.save(where, model.module, model.config, model.tokenizer, **said)


def _vision(c, spec: tasks.Spec, init: str, role: str, fresh: bool) -> Model:
  """From a word like 'mlp:256,256', or a folder; fresh: it is going to be trained."""
  if vision_files.holds(init):
    module, config = vision_files.load(init, c.train.dtype)
    names = tuple(config.id2label.values())
    if config.shape != spec.shape or len(names) != spec.num_labels:
      raise ValueError(
        f'{init} reads {config.shape} and has {len(names)} classes; the data are {spec.shape}, '
        f'{spec.num_labels} classes'
      )
    if not fresh and names != spec.labels:
      raise ValueError(f'{role} {init} numbers its classes {names}, the data {spec.labels}')
  else:
    try:
      config = vision_files.config(init, spec.shape, spec.labels)
    except ValueError as error:
      raise ValueError(f'config.{role}.init: {error}, nor a folder with one') from None
    if not fresh:
      raise ValueError(f'{role} {init!r} is not trained: set config.{role}.finetune=True')
    # Two models of one architecture begin as two.
    key = jax.random.fold_in(jax.random.key(c.seed), ('teacher', 'student').index(role))
    module = vision_files.build(config, key, c.train.dtype)
  config = dataclasses.replace(config, problem_type=spec.problem_type)
  return Model(module, config, None)


def _masked(where: str, c, role: str) -> tuple[Model, tuple[str, ...]]:
  """(model with a masked-LM head, parameters of that head that the folder lacks)."""
  found = hf.read(where, head='mlm', **_knobs(c))
  model = _readable(Model(found.module, found.config, found.tokenizer), where, c)
  if model.tokenizer.mask_token_id is None:
    raise ValueError(
      f'the tokenizer of {where} has no mask token, so it is no masked language model: '
      f'name another config.{role}.init'
    )
  return model, found.fresh


def _path(where: str | pathlib.Path) -> str:
  return str(hf.minilm()) if where == 'minilm' else str(where)


def _knobs(c) -> dict[str, Any]:
  t = c.train
  return dict(dtype=t.dtype, attention=t.attention, remat=t.remat, seed=c.seed)


def _no_sizes(how, role: str) -> None:
  """ValueError where sizes are given of a model that has its own."""
  given = [f'{name}={how[name]}' for name in ('width', 'heads', 'ffn') if how[name]]
  if given and how.init != 'random':
    raise ValueError(
      f'config.{role}: {", ".join(given)} are sizes of random weights, and '
      f'config.{role}.init={how.init!r} has its own: set it to random, or them to 0'
    )


def _sizes(how) -> dict[str, int | None]:
  return dict(width=how.width or None, heads=how.heads or None, ffn=how.ffn or None)


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


def _classifier(found: hf.Checkpoint, where: str, c, spec: tasks.Spec) -> Model:
  model = _readable(Model(found.module, found.config, found.tokenizer), where, c)
  model.config.problem_type = spec.problem_type
  return model


def _readable(model: Model, where: str, c) -> Model:
  """ValueError unless it has a tokenizer, and positions for the text."""
  if model.tokenizer is None:
    raise ValueError(f'{where} has no tokenizer files (tokenizer.json or vocab.txt)')
  room = model.module.spec.max_length
  if c.data.max_length > room:
    raise ValueError(f'config.data.max_length={c.data.max_length}, but {where} reads {room} tokens')
  return model
