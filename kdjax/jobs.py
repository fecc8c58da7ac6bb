"""The modes of the command line: train, eval, predict, export, dry_run.

A workdir holds one folder per run (teacher, generator, and each method by name), each with run.json
(what it was asked), result.json (once it is done), log.jsonl, checkpoints, and model: a HuggingFace
folder.
"""

import dataclasses
import json
import pathlib
import shutil
import time

import jax
import numpy as np

from kdjax import (
  answers,
  env,
  evaluate,
  log,
  masked,
  methods,
  net,
  predict,
  report,
  roles,
  runs,
  sharding,
  train,
)
from kdjax.data import batches
from kdjax.methods import base
from kdjax.models import hf, vision_files


def prepare(c, workdir: pathlib.Path, cache: str = '', fork: bool = False) -> env.Plan:
  """Every check there is, before anything is trained.

  cache: a folder for token ids instead of the workdir's; nothing is then written to the workdir.
  fork: runs that were asked something else are set aside, once all is checked, not refused.
  """
  wanted = runs.order(c)
  if not cache:
    report.writable(workdir)
  c, spec = env.settle(c)
  for name in runs.names(c):
    base.check_images(runs.block(c, name).name, spec.images)
  c.data.cache = cache or c.data.cache
  others = [name for name in wanted if runs.differ(workdir / name, runs.asked(c, name))]
  for name in () if fork else others:
    runs.same(workdir / name, runs.asked(c, name))
  finished = {
    name: workdir / name / 'model'
    for name in ('teacher', 'generator')
    if name in wanted and name not in others and runs.done(workdir / name)
  }
  plan = env.prepare(c, workdir, finished, runs.cast(c), runs.masked(c))
  first = plan.spec.evaluation[0]
  for split in ('train', first):
    if split not in plan.data:
      raise ValueError(f'task {plan.spec.name} has no {split} split in {plan.text.origin}')
    if plan.generator or runs.masked(c):
      masked.check(plan.data[split], split)
  for name in wanted:
    world = env.make(c, plan.spec, plan.generator) if name == 'generator' else plan.env
    own = runs.block(c, name)
    methods.get(own.name)(own, world)
    train.total_steps(runs.fields(c, name), len(plan.data['train'].index))
  if not runs.masked(c) and not env.labelled(plan.data[first]):
    raise ValueError(f'{first} has rows without a label: nothing to select by')
  for name in () if cache else others:
    aside = runs.set_aside(workdir / name)
    log.logger.info(
      f'{workdir / name} held another run: it is now {aside.name}; {name} begins anew'
    )
  return plan


def run(plan: env.Plan) -> dict[str, dict]:
  """Fine-tune teacher and generator, distil by every method, print and write the table."""
  c = plan.c
  report.record(c, plan.workdir)
  teacher = _ready(plan, 'teacher', {'teacher': plan.teacher})
  generator = _ready(plan, 'generator', {})
  if runs.alone(c):
    return report.guesses(_learned(plan, {'generator': generator}), plan.workdir)
  models = {'teacher': teacher}
  start = roles.student(c, plan.spec, teacher, 'mlm' if runs.masked(c) else 'classify')
  for name in runs.names(c):
    others = {'teacher': teacher}
    if runs.uses_generator(c, name):
      others['generator'] = generator
    models[name] = _run(plan, name, start, others)
  if runs.masked(c):
    return report.guesses(_learned(plan, models), plan.workdir)
  rows = _rows(plan, models)
  report.table(rows, plan.spec, plan.workdir)
  return rows


def _ready(plan, name: str, others: dict[str, roles.Model]) -> roles.Model | None:
  """Teacher or generator, trained where that is asked; None where there is none."""
  model = getattr(plan, name)
  if name in runs.order(plan.c):
    return _run(plan, name, model, others)
  if model:
    # A wrong one, or a teacher with classes in another order, would fail in silence.
    cut, params = _cut(plan, name, model)
    _say(name, _scorer(plan, name, cut)(params, plan.data[plan.spec.evaluation[0]]))
  return model


def _run(plan, name: str, model: roles.Model, others: dict[str, roles.Model]) -> roles.Model:
  """One run to its end, or its model where it is finished already.

  model: what is trained. others: whom else its method asks, by role.
  """
  workdir, c, guesses = plan.workdir / name, plan.c, _guesses(plan, name)
  if runs.done(workdir):
    log.logger.info(f'{name}: finished already, {workdir / "model"} is used')
    if name == 'generator':
      return plan.generator
    return roles.load(c, plan.spec, workdir / 'model', 'mlm' if guesses else 'classify')
  workdir.mkdir(parents=True, exist_ok=True)
  report.write_json(workdir / 'run.json', runs.asked(c, name))
  began = time.perf_counter()
  cut, params, method = _staged(plan, name, model, others)
  scorer, split = _scorer(plan, name, cut), plan.spec.evaluation[0]
  score = lambda params: scorer(params, plan.data[split])  # noqa: E731
  before = {}
  if guesses:
    before['before'] = score(params['student'])
    _say(f'{name}, untrained', before['before'])
  found = train.fit(
    method,
    params,
    _told(plan, name, method, others),
    score,
    runs.fields(c, name),
    c.data.buckets,
    workdir,
    sharding.learner(plan.mesh, name),
    name,
  )
  if guesses:
    _say(name, found.metrics)
  module = net.fill(model.module, found.params)
  result = dict(
    split=split,
    **before,
    metrics=found.metrics,
    best_step=found.step,
    steps=found.steps,
    seconds=round(time.perf_counter() - began, 1),
    parameters=model.parameters,
  )
  labels = () if guesses else plan.spec.labels
  card = report.card(plan, name, result)
  model = model._replace(module=module)
  roles.save(model, workdir / 'model', labels, card)
  report.write_json(workdir / 'result.json', result)
  return model


def _staged(plan, name: str, model: roles.Model, others: dict[str, roles.Model]):
  """(net of what is trained, all parameters by role, method) of a run."""
  cut, params = _cut(plan, name, model)
  world = env.make(plan.c, plan.spec, model, **others, mismatch=plan.env.mismatch)
  world = world._replace(student=dataclasses.replace(world.student, view=cut.view))
  params = {'student': params} | {role: net.split(m.module)[1] for role, m in others.items()}
  own = runs.block(plan.c, name)
  return cut, params, methods.get(own.name)(own, world)


def _told(plan, name: str, method: base.Method, others: dict[str, roles.Model]):
  """The train split; with the teacher's answers, where a run would ask for them twice."""
  data, c = plan.data['train'], plan.c
  own = runs.fields(c, name)
  seen = train.total_steps(own, len(data.index))[0] * own.batch_size
  wanted = seen > len(data.index) if c.teacher.cache == 'auto' else c.teacher.cache == 'always'
  if not (wanted and method.asks and 'teacher' in others):
    return data
  cut, params = _cut(plan, 'teacher', others['teacher'])
  sizes = c.eval.batch_size, c.data.buckets, plan.mesh
  found = answers.known(cut, params, data, method.asks, env.cache(c, plan.workdir), *sizes)
  return data._replace(known=found)


def layout(plan: env.Plan, name: str) -> str:
  """Where the arrays of a run will lie, and their bytes on a device; nothing is computed."""
  model, others = plan.student, {'teacher': plan.teacher}
  if name in ('teacher', 'generator'):
    model, others = getattr(plan, name), {}
  elif runs.uses_generator(plan.c, name):
    others['generator'] = plan.generator
  _, params, method = _staged(plan, name, model, others)
  data, c = plan.data['train'], runs.fields(plan.c, name)
  mesh = sharding.learner(plan.mesh, name)
  total = train.total_steps(c, len(data.index))[0]
  state, frozen, _ = train.shapes(method, params, data, c, total, mesh)
  return sharding.table(train.groups(state, frozen), mesh)


def _say(name: str, scores: dict[str, float]) -> None:
  log.logger.info(f'{name}: ' + ', '.join(f'{k} {v:.4f}' for k, v in scores.items()))


def _guesses(plan, name: str) -> bool:
  """Whether a run's model is a masked language model."""
  return name == 'generator' or runs.masked(plan.c)


def _learned(plan, models: dict[str, roles.Model]) -> dict[str, dict]:
  """By name, what a run's result.json has; of a model that was taken as it is, its score alone."""
  out, split = {}, plan.spec.evaluation[0]
  for name, model in models.items():
    if name in runs.order(plan.c):
      out[name] = report.read_json(plan.workdir / name / 'result.json')
      continue
    cut, params = _cut(plan, name, model)
    found = _scorer(plan, name, cut)(params, plan.data[split])
    out[name] = dict(split=split, parameters=model.parameters, metrics=found)
  return out


def _rows(plan, models: dict[str, roles.Model]) -> dict[str, dict]:
  """Every evaluation split by every model, and speeds taken in turn."""
  rows, calls, sizes = {}, {}, plan.c.eval.batch_size
  buckets = plan.c.data.buckets
  splits = [s for s in plan.spec.evaluation if s in plan.data and env.labelled(plan.data[s])]
  few = batches.part(plan.data[splits[0]], slice(512))
  for name, model in models.items():
    cut, params = _cut(plan, name, model)
    forward, score = evaluate.forward(cut, plan.mesh), _scorer(plan, name, cut)
    rows[name] = dict(parameters=model.parameters)
    for split in splits:
      rows[name][split] = score(params, plan.data[split])
    calls[name] = lambda f=forward, p=params: evaluate.logits(f, p, few, sizes, buckets, plan.mesh)
  for name, value in evaluate.speed(calls, len(few.index)).items():
    rows[name]['examples_per_second'] = value
  return rows


def _cut(plan, name: str, model: roles.Model):
  """(net, parameters); the teacher reads its own token ids where they are others."""
  cut, params = net.split(model.module)
  view = plan.env.teacher.view if name == 'teacher' else ''
  role = name if name in sharding.ROLES else 'student'
  params = sharding.place({role: params}, plan.mesh)[role]
  return dataclasses.replace(cut, view=view), params


def _scorer(plan, name: str, cut: net.Net):
  """(params, data) -> metrics; of a masked language model, how well it guesses."""
  sizes = plan.c.eval.batch_size, plan.c.data.buckets, plan.mesh
  if _guesses(plan, name):
    # One share for all of a table: of more hidden tokens, each is harder to guess.
    block = plan.c.method if runs.masked(plan.c) else runs.block(plan.c, name)
    return masked.scorer(cut, plan.env.mask_id, block.rho, *sizes)
  return evaluate.scorer(cut, plan.env.task, plan.spec.metrics, *sizes)


def chosen(c, workdir: pathlib.Path) -> pathlib.Path:
  """The model that eval, predict and export take: config.eval.model, or this method's."""
  own = 'generator' if runs.alone(c) else c.name
  where = pathlib.Path(c.eval.model) if c.eval.model else workdir / own / 'model'
  if not where.is_dir():
    raise ValueError(f'no model in {where}: train first, or set config.eval.model')
  return where


def evaluation(c, workdir: pathlib.Path) -> dict[str, dict[str, float]]:
  """Score the chosen model on every labelled evaluation split (or config.eval.split)."""
  where = chosen(c, workdir)
  if runs.masked(c):
    c, spec = env.settle(c)
    if spec.label:  # it has a validation split of its own, and the corpus is not scored
      c.data.unlabelled, c.data.neighbours = '', 1
    plan = env.prepare(c, workdir, {'generator': where}, ('generator',), True)
    spec, text = plan.spec, plan.text
    cut, params = _cut(plan, 'generator', plan.generator)
    scorer = _scorer(plan, 'generator', cut)
    score = lambda split: scorer(params, plan.data[split])  # noqa: E731
  else:
    c, spec, text = env.read(c)
    classifier = _classifier(c, where)
    classifier.check(spec)
    score = lambda split: classifier.score(text.splits[split], spec)  # noqa: E731
  out = {}
  for split in (c.eval.split,) if c.eval.split else spec.evaluation:
    if split not in text.splits:
      log.logger.info(f'{split}: not in {text.origin}')
      continue
    out[split] = score(split)
  if not out:
    raise ValueError(f'none of the splits {c.eval.split or spec.evaluation} is in {text.origin}')
  report.write_json(workdir / 'eval.json', dict(model=str(where), metrics=out))
  print(json.dumps(out, indent=2))
  return out


def _classifier(c, where: pathlib.Path) -> predict.Classifier:
  mesh = sharding.make_mesh(**c.mesh)
  return predict.load(str(where), c.eval.batch_size, c.data.max_length, mesh)


def prediction(c, workdir: pathlib.Path) -> pathlib.Path:
  """Write predictions of the chosen model for a split, as csv."""
  if runs.masked(c):
    raise ValueError(
      f'a masked language model predicts no classes: method {c.method.name} has no --mode=predict'
    )
  where = chosen(c, workdir)
  c, spec, text = env.read(c)
  split = c.eval.split or next(
    (s for s in ('test', 'validation') if s in text.splits), spec.evaluation[0]
  )
  if split not in text.splits:
    raise ValueError(f'no split {split!r} in {text.origin}: there are {", ".join(text.splits)}')
  classifier = _classifier(c, where)
  path = workdir / f'predictions.{split}.csv'
  classifier.write(text.splits[split], path)
  print(f'{len(text.splits[split].first)} predictions of {where} in {path}')
  return path


def export(c, workdir: pathlib.Path) -> pathlib.Path:
  """Copy the best checkpoint's HuggingFace folder out, and read it back."""
  where = chosen(c, workdir)
  target = pathlib.Path(c.export.dir) if c.export.dir else workdir / 'export'
  if target.exists() and any(target.iterdir()):
    raise ValueError(f'{target} is not empty: set config.export.dir, or delete it')
  spare = target.with_name(target.name + '.tmp')
  shutil.rmtree(spare, ignore_errors=True)
  shutil.copytree(where, spare)
  kind = 'mlm' if runs.masked(c) else 'classify'
  first, second = (net.split(_read(d, kind))[1] for d in (where, spare))
  if not all(map(np.array_equal, *(_leaves(p) for p in (first, second)))):
    raise RuntimeError(f'{spare} does not read back as {where}')
  if target.exists():
    target.rmdir()
  spare.rename(target)
  print(f'exported {where} to {target}')
  return target


def _read(folder: pathlib.Path, kind: str):
  if vision_files.holds(folder):
    return vision_files.load(folder)[0]
  return hf.load(str(folder), head=kind)[0]


def _leaves(params):
  return [np.asarray(p) for p in jax.tree.leaves(params)]
