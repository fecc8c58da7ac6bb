"""KD, and what nearly every method adds to it: views of the text, and terms on hidden states.

A view is new input for both models, made from a batch; the student learns the teacher's answer to
it. A term is a loss on hidden states. Any view goes with any term: config.method.also names the
term that a method of views has beside it.
"""

import importlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kdjax.methods import base

Array = jax.Array


class View(NamedTuple):
  """New input for teacher and student.

  student, teacher: ids i32[B, L], or word embeddings [B, L, E] in each model's own table.
  batch: whose masks and segments hold for it.
  changed: bool[B], the rows that differ from the batch.
  hard: logits [B, C] -> f32[B], the loss on gold labels where it is not the task's on batch's.
  """

  student: Array
  teacher: Array
  batch: base.Batch
  changed: Array
  metrics: base.Metrics
  hard: Callable[[Array], Array] | None = None


class Part(NamedTuple):
  """A view or a term: something that a method adds to KD.

  call, of a view: (params, memory, batch, student, teacher, key) -> (View, memory), where student
    and teacher are the outputs (net.Out) on the batch. All without gradient, but for params where
    the view is live.
  call, of a term: the same -> (loss f32[], memory, metrics), weighted already.
  owns: parameters that its init adds and the student's player trains.
  live: the embeddings of a view train the student's table, as those of a text do.
  pool: how the vectors are pooled that are all that a term reads of hidden states; '': not pooled.
  """

  call: Callable
  owns: tuple[str, ...] = ()
  init: Callable[[base.Key, base.Params, base.Data], tuple[base.Params, base.Memory]] = base.nothing
  live: bool = False
  pool: str = ''


ON = ('text', 'new', 'both')


def also(c, env) -> Part | None:
  """The term that config.method.also names; None where it is empty."""
  if not c.also:
    return None
  name = c.also.name
  try:
    term = importlib.import_module(f'kdjax.methods.{name}').term
  except (ImportError, AttributeError):
    raise ValueError(
      f'config.method.also.name={name!r} has no term: codir, cilda, pkd and rail_kd do'
    ) from None
  try:
    return term(c.also, env)
  except (AttributeError, KeyError) as error:  # a field that it asks for, with the nearest there is
    raise ValueError(
      f'config.method.also of {name!r}: {error.args[0]} Its fields are TERM of configs/{name}.py'
    ) from error


def rewritten(batch: base.Batch, new: Array, sources: Array | None = None) -> View:
  """The view of new ids i32[B, L] for both models, with what was done to the text as metrics.

  sources: i32[B, L, K], ids that the new one may have come from: `third` counts those of neither.
  """
  tokens = batch['tokens']
  moved = new != tokens
  metrics = dict(moved=moved.sum() / jnp.maximum(batch['maskable'].sum(), 1))
  if sources is not None:
    third = moved & (new[..., None] != sources).all(-1)
    metrics['third'] = third.sum() / jnp.maximum(moved.sum(), 1)
  return View(new, new, batch, moved.any(1), metrics)


def read(net, params, batch: base.Batch, x: Array, key=None):
  """net.Out of ids i32[B, L] or of word embeddings [B, L, E], masks and segments the batch's."""
  return net.enter(params, batch, net.embed(params, x) if x.ndim == 2 else x, key)


def distil(
  c,
  env,
  view: Part | None = None,
  term: Part | None = None,
  on: str = 'text',
  teacher_dropout: bool = False,
) -> base.Method:
  """One player: L = hard CE(x) + soft gap(x) + augmented gap(x') + hard_new CE(x') + the terms.

  c: hard, soft, temperature; with a view also augmented, hard_new (weights on x') and also, the
  fields of a term ({}: none). on (also.on): the outputs that the term reads, text, new or both.
  teacher_dropout: on the batch itself; off everywhere else.
  """
  base.positive(c, 'temperature')
  if view and c.also:
    base.one_of(c.also, on=ON)
    term, on = also(c, env), c.also.on
  parts = {name: part for name, part in (('view', view), ('term', term)) if part}

  def init(key, params, data):
    extra, memory = {}, {}
    for n, (name, part) in enumerate(parts.items()):
      added, memory[name] = part.init(jax.random.fold_in(key, n), params, data)
      extra |= added
    return extra, memory

  def loss(params, memory, batch, key):
    k_drop, k_new, k_drop_new, *k_terms, k_teacher = jax.random.split(key, 6 if term else 4)
    task, memory = env.task, dict(memory)
    student = env.student(params['student'], batch, k_drop)
    teacher = env.teacher.answer(params['teacher'], batch, k_teacher if teacher_dropout else None)
    metrics = dict(
      hard=task.loss(student.logits, batch['label']).mean(),
      soft=task.gap(student.logits, teacher.logits, c.temperature).mean(),
    )
    total = c.hard * metrics['hard'] + c.soft * metrics['soft']

    texts = {'text': (batch, student, teacher)}
    if view:
      asked = params if view.live else jax.lax.stop_gradient(params)
      outs = jax.lax.stop_gradient((student, teacher))
      new, memory['view'] = view.call(asked, memory['view'], batch, *outs, k_new)
      new_student = read(env.student, params['student'], new.batch, new.student, k_drop_new)
      new_teacher = read(env.teacher, params['teacher'], new.batch, new.teacher)
      texts['new'] = (new.batch, new_student, new_teacher)
      augmented = task.gap(new_student.logits, new_teacher.logits, c.temperature).mean()
      total += c.augmented * augmented
      metrics |= new.metrics | dict(augmented=augmented)
      if c.hard_new:
        hard = new.hard or (lambda logits: task.loss(logits, new.batch['label']))
        metrics['hard_new'] = hard(new_student.logits).mean()
        total += c.hard_new * metrics['hard_new']
      relabelled = new.changed & task.differs(teacher.logits, new_teacher.logits)
      metrics['relabelled'] = relabelled.sum() / jnp.maximum(new.changed.sum(), 1)

    if term:
      before = memory['term']
      chosen = [name for name in texts if on in (name, 'both')]
      for n, name in enumerate(chosen):
        value, after, found = term.call(params, before, *texts[name], k_terms[n])
        # What a term remembers, it remembers of the text where it reads both.
        memory['term'] = after if n == 0 else memory['term']
        total += value
        metrics |= found if name == chosen[0] else {f'{k}_new': v for k, v in found.items()}
    return total, (memory, metrics)

  owns = ('student', *(name for part in parts.values() for name in part.owns))
  asks = term.pool if term and on != 'new' else 'logits'
  asks = '' if teacher_dropout else asks
  return base.Method({'student': base.Player(owns, loss)}, init, asks=asks)
