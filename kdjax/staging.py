"""What a run is before its first step: its rows and their lengths, mesh, nets, method and scorer.

Of a plan, and a run by name; what trains, estimates, scores and shows it asks here.
"""

import dataclasses

import numpy as np

from kdjax import (
  answers,
  doubts,
  env,
  evaluate,
  log,
  masked,
  methods,
  metrics,
  net,
  roles,
  runs,
  sharding,
  train,
)
from kdjax.data import batches, lengths, sources
from kdjax.methods import base


def rows_of(plan: env.Plan, name: str) -> batches.Dataset:
  """What a run learns from."""
  return plan.learned(runs.gold(plan.c, name))


def data_of(plan: env.Plan, name: str) -> dict[str, str]:
  """What a run finds in its files: of the rows it learns from, and of those that choose its
  checkpoint, how many and a digest; names of classes. What it was asked has paths alone."""
  first, blind = plan.spec.evaluation[0], guesses(plan, name)
  found = {} if blind else dict(classes=', '.join(plan.spec.labels))
  for split, data in (('train', rows_of(plan, name)), (first, plan.data[first])):
    reads = data.teacher if name == 'teacher' and data.teacher else data.tokens
    place = np.arange(len(data.index))  # other rows may be numbered before them
    # Nobody else's tokenizer is its own.
    own = data._replace(tokens=reads, teacher=None, index=place)
    own = own._replace(label=place) if blind else own
    found[split] = f'{len(place)} rows, {batches.digest(own)[:12]}'
  return found


def moved(plan: env.Plan, name: str) -> str:
  """What data a run there learned from instead of the plan's; '' where they are these."""
  return runs.moved(plan.workdir / name, lambda: data_of(plan, name))


def steps_of(plan: env.Plan, name: str) -> tuple[int, int]:
  """(steps of a run, steps of one epoch)."""
  return train.total_steps(runs.fields(plan.c, name), len(rows_of(plan, name).index))


def _played(plan: env.Plan, name: str) -> int:
  """Rows that a run sees, each as often as it sees it."""
  return steps_of(plan, name)[0] * runs.fields(plan.c, name).batch_size


def lengths_of(plan: env.Plan, name: str) -> tuple[int, ...]:
  """Lengths of the batches that a run learns from, as its config and its data have them."""
  data, c = rows_of(plan, name), runs.fields(plan.c, name)
  if plan.c.data.buckets != lengths.AUTO:
    return plan.c.data.buckets
  longest = data.tokens.tokens.shape[1]
  return lengths.choose(batches.row_lengths(data), longest, c.batch_size, _played(plan, name))


def said(plan: env.Plan, name: str, shapes: tuple[int, ...]) -> str:
  """Such lengths in words, with what padding costs."""
  data, size = rows_of(plan, name), runs.fields(plan.c, name).batch_size
  full = lengths.upto(shapes, data.tokens.tokens.shape[1])
  share = lengths.places(batches.row_lengths(data), full, size) / data.tokens.length.sum()
  return f'lengths {", ".join(map(str, shapes))}: {share:.2f} places a token'


def mixed(plan: env.Plan, name: str) -> str:
  """How rows with a gold label and without come together in a run; '' where all have one."""
  data, size = rows_of(plan, name), runs.fields(plan.c, name).batch_size
  there = int(sources.labelled(data.label).sum())
  if there == len(data.index) or runs.masked(plan.c) or name == 'generator':
    return ''
  return (
    f'; of {len(data.index):,} rows {there:,} have a gold label: '
    f'{size * there / len(data.index):.1f} of a batch of {size}, on average'
  )


def told(plan, name: str, method: base.Method, others: dict[str, roles.Model], shapes):
  """The train split; with the teacher's answers, where a run would ask for them twice."""
  data, c = rows_of(plan, name), plan.c
  if 'teacher' not in others or not keeps_answers(plan, name, method):
    return data
  asked = _asked(plan, name)
  log.logger.info(f'{name}: {len(data.index):,} answers of the teacher stand for {asked:,}')
  cut, params = placed(plan, 'teacher', others['teacher'])
  sizes = c.eval.batch_size, shapes, plan.mesh
  found = answers.known(cut, params, data, method.asks, env.cache(c, plan.workdir), *sizes)
  return data._replace(known=found)


def keeps_answers(plan: env.Plan, name: str, method: base.Method) -> bool:
  """Whether the teacher is asked for all of its answers beforehand."""
  how = plan.c.teacher.cache
  if not method.asks or how == 'never':
    return False
  return how == 'always' or _asked(plan, name) > len(rows_of(plan, name).index)


def _asked(plan: env.Plan, name: str) -> int:
  """Rows that a teacher would answer step by step: each seed has an order of its own."""
  return _played(plan, name) * _seeds(plan, name)


def _seeds(plan, name: str) -> int:
  """Models that are trained in one program."""
  return len(runs.folders(plan.c, plan.workdir / name))


def mesh_of(plan, name: str) -> sharding.Mesh:
  """Where a run is trained."""
  mesh = sharding.learner(plan.mesh, name)
  return sharding.for_seeds(mesh, _seeds(plan, name))


def staged(plan, name: str, model: roles.Model, others: dict[str, roles.Model]):
  """(net of what is trained, all parameters by role, method) of a run."""
  cut, params = placed(plan, name, model)
  gold = runs.gold(plan.c, name)
  world = env.make(plan.c, plan.spec, model, **others, mismatch=plan.env.mismatch, gold=gold)
  world = world._replace(student=dataclasses.replace(world.student, view=cut.view))
  params = {'student': params} | {role: net.split(m.module)[1] for role, m in others.items()}
  own = runs.block(plan.c, name)
  return cut, params, methods.get(own.name)(own, world)


def placed(plan, name: str, model: roles.Model):
  """(net, parameters as they lie); the teacher reads its own token ids where they are others."""
  cut, params = net.split(model.module)
  view = plan.env.teacher.view if name == 'teacher' else ''
  role = name if name in sharding.ROLES else 'student'
  params = sharding.place({role: params}, plan.mesh)[role]
  return dataclasses.replace(cut, view=view), params


def scorer(plan, name: str, cut: net.Net, mesh, many: bool = False):
  """(params, data) -> metrics; of a masked language model, how well it guesses."""
  sizes = *plan.scoring[:2], mesh
  if guesses(plan, name):
    # One share for all of a table: of more hidden tokens, each is harder to guess.
    block = plan.c.method if runs.masked(plan.c) else runs.block(plan.c, name)
    return masked.scorer(cut, plan.env.mask_id, block.rho, *sizes, many=many)
  return evaluate.scorer(cut, plan.env.task, plan.spec.metrics, *sizes, many)


def judged(
  plan: env.Plan, name: str, model: roles.Model, data: batches.Dataset
) -> tuple[dict[str, float], list[str]]:
  """(scores of a classifier, what speaks against it) on rows that all have a label."""
  cut, params = placed(plan, name, model)
  found = evaluate.logits(evaluate.forward(cut, plan.mesh), params, data, *plan.scoring)
  return scores(plan, found, data), doubts.of(found, data.label, plan.spec)


def scores(plan: env.Plan, logits_NC: np.ndarray, data: batches.Dataset) -> dict[str, float]:
  """Metrics of the classes, scores or label sets that logits say."""
  decision = np.asarray(plan.env.task.decide(logits_NC))
  return metrics.compute(plan.spec.metrics, decision, data.label, logits_NC.shape[1])


def guesses(plan, name: str) -> bool:
  """Whether a run's model is a masked language model."""
  return name == 'generator' or runs.masked(plan.c)
