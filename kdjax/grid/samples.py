"""What a method's augmentation makes of real rows, and what the teacher says of it."""

import importlib

import jax
import numpy as np

from kdjax import env, hosts, runs, staging, tasks
from kdjax.data import batches
from kdjax.methods import base, blend

ROWS = 8  # shown; and mixed with one another


def of(plan: env.Plan, name: str, student, teacher) -> list[list[str]]:
  """[text, its label, teacher, new text, teacher on it] of the first rows of train.

  Against the finished student. [] where a method makes no new text: of embeddings, of images, and
  where a generator wrote it, which is not kept.
  """
  if name == 'teacher' or plan.spec.images or hosts.several():
    return []
  block = runs.block(plan.c, name)
  view = getattr(importlib.import_module(f'kdjax.methods.{block.name}'), 'view', None)
  if view is None or runs.uses_generator(plan.c, name):
    return []
  world = env.make(plan.c, plan.spec, student, teacher, mismatch=plan.env.mismatch)
  params = {
    role: staging.placed(plan, run, model)[1]
    for role, run, model in (('student', name, student), ('teacher', 'teacher', teacher))
  }
  train = plan.data['train']
  few = batches.part(train, slice(min(ROWS, len(train.index))))
  batch, _ = next(batches.eval_batches(few, len(few.index), ()))
  part, key = view(block, world), jax.random.key(plan.c.seed)
  extra, memory = part.init(key, params, base.Data(few.index, few.label, len(few.index), 1))

  @jax.jit
  def made(params, memory, batch, key):
    outs = [getattr(world, role)(params[role], batch) for role in ('student', 'teacher')]
    new, _ = part.call(params, memory, batch, *outs, key)
    answer = blend.read(world.teacher, params['teacher'], new.batch, new.teacher)
    return outs[1].logits, new.student, answer.logits

  before, ids, after = map(np.asarray, made(params | extra, memory, batch, key))
  if ids.ndim > 2:  # embeddings: no text
    return []
  rows = np.argsort(batch['index'])
  read = lambda i, mask: student.tokenizer.decode(i[mask], skip_special_tokens=True)  # noqa: E731
  return [
    [
      read(batch['tokens'][i], batch['mask'][i]),
      _said(plan.spec, batch['label'][i]),
      _answer(plan.spec, before[i]),
      read(ids[i], batch['mask'][i]),
      _answer(plan.spec, after[i]),
    ]
    for i in rows
  ]


def _answer(spec: tasks.Spec, logits_C: np.ndarray) -> str:
  if spec.kind != 'classes':
    return _said(spec, np.asarray(tasks.KINDS[spec.kind].decide(logits_C[None]))[0])
  p_C = np.asarray(jax.nn.softmax(logits_C))
  return f'{spec.labels[p_C.argmax()]} {p_C.max():.2f}'


def _said(spec: tasks.Spec, label) -> str:
  if spec.kind == 'regression':
    return f'{label:.2f}'
  if spec.kind == 'multilabel':
    return ', '.join(n for n, v in zip(spec.labels, label, strict=True) if v) or 'none'
  return spec.labels[label]
