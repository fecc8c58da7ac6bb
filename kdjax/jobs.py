"""The modes of the command line: train, eval, predict, export, dry_run.

A workdir holds one folder per run (teacher, and each method by name), each with run.json (what it
was asked), result.json (once it is done), log.jsonl, checkpoints, and model: a HuggingFace folder.
"""

import dataclasses
import json
import pathlib
import shutil
import time
from typing import Any

import jax
import numpy as np

from kdjax import env, evaluate, log, methods, net, predict, report, sharding, train
from kdjax.models import hf

# Fields that do not change what a run computes: a finished run stands whatever they are.
_FREE = ('compare', 'baselines', 'eval', 'export', 'mesh')
_FREE_TRAIN = ('log_every', 'tensorboard')


def names(c) -> list[str]:
  """The runs of a config in order, its own method last."""
  own = c.method.name
  wanted = [n.strip() for n in c.compare.split(',') if n.strip()]
  unknown = [n for n in wanted if n not in c.baselines]
  if unknown:
    raise ValueError(
      f'config.compare names {", ".join(unknown)}: none of {", ".join(sorted(c.baselines))}'
    )
  return [n for n in dict.fromkeys(wanted) if n != own] + [own]


def block(c, name: str):
  """The fields of one of the runs' methods."""
  return c.method if name == c.method.name else c.baselines[name]


def prepare(c, workdir: pathlib.Path, cache: str = '') -> env.Plan:
  """Every check there is, before anything is trained.

  cache: a folder for token ids instead of the workdir's; nothing is then written to the workdir.
  """
  wanted = names(c)
  if not cache:
    report.writable(workdir)
  c, _ = env.settle(c)
  c.data.cache = cache or c.data.cache
  for name in ['teacher'] * c.teacher.finetune + wanted:
    _same_run(workdir / name, _asked(c, name))
  reuse = c.teacher.finetune and done(workdir / 'teacher')
  plan = env.prepare(c, workdir, workdir / 'teacher' / 'model' if reuse else None)
  for name in wanted:
    methods.get(block(c, name).name)(block(c, name), plan.env)
  for split in ('train', plan.spec.evaluation[0]):
    if split not in plan.data:
      raise ValueError(f'task {plan.spec.name} has no {split} split in {plan.text.origin}')
  for name in ['teacher'] * c.teacher.finetune + wanted:
    train.total_steps(fields(c, name), len(plan.data['train'].index))
  if not env.labelled(plan.data[plan.spec.evaluation[0]]):
    raise ValueError(f'{plan.spec.evaluation[0]} has rows without a label: nothing to select by')
  return plan


def run(plan: env.Plan) -> dict[str, dict]:
  """Fine-tune the teacher, distil by every method, print and write the table."""
  c = plan.c
  report.record(c, plan.workdir)
  teacher = plan.teacher
  if c.teacher.finetune:
    teacher = _run(plan, 'teacher', teacher, teacher, 'finetune')
  else:
    # A wrong teacher, or classes in another order, would fail in silence.
    cut, params = _cut(plan, 'teacher', teacher)
    scores = _scorer(plan, cut)(params, plan.data[plan.spec.evaluation[0]])
    log.logger.info('teacher: ' + ', '.join(f'{k} {v:.4f}' for k, v in scores.items()))
  models = {'teacher': teacher}
  start = env.build_student(c, plan.spec, teacher)
  for name in names(c):
    models[name] = _run(plan, name, start, teacher, block(c, name).name)
  rows = _rows(plan, models)
  report.table(rows, plan.spec, plan.workdir)
  return rows


def _run(plan, name, student: env.Model, teacher: env.Model, method: str) -> env.Model:
  """One run to its end, or its model where it is finished already."""
  workdir = plan.workdir / name
  if done(workdir):
    log.logger.info(f'{name}: finished already, {workdir / "model"} is used')
    return load(plan, workdir / 'model')
  workdir.mkdir(parents=True, exist_ok=True)
  asked = _asked(plan.c, name)
  report.write_json(workdir / 'run.json', asked)
  began = time.perf_counter()
  cut, params = _cut(plan, name, student)
  world = env.make(plan.c, plan.spec, teacher, student, plan.env.mismatch)
  world = world._replace(student=dataclasses.replace(world.student, view=cut.view))
  own = plan.c.method if name == 'teacher' else block(plan.c, name)
  score = _scorer(plan, cut)
  validation = plan.data[plan.spec.evaluation[0]]
  found = train.fit(
    methods.get(method)(own, world),
    dict(student=params, teacher=net.split(teacher.module)[1]),
    plan.data['train'],
    lambda params: score(params, validation),
    fields(plan.c, name),
    plan.c.data.buckets,
    workdir,
    plan.mesh,
    name,
  )
  module = net.fill(student.module, found.params)
  result = dict(
    split=plan.spec.evaluation[0],
    metrics=found.metrics,
    best_step=found.step,
    steps=found.steps,
    seconds=round(time.perf_counter() - began, 1),
    parameters=student.parameters,
  )
  card = report.card(plan, name, result)
  hf.save(
    workdir / 'model',
    module,
    student.config,
    student.tokenizer,
    labels=plan.spec.labels or None,
    card=card,
  )
  report.write_json(workdir / 'result.json', result)
  return student._replace(module=module)


def load(plan, where: pathlib.Path) -> env.Model:
  """A model that a run saved."""
  c = plan.c.train
  found = hf.read(str(where), plan.spec.num_labels, dtype=c.dtype, attention=c.attention)
  return env.Model(found.module, found.config, found.tokenizer)


def _rows(plan, models: dict[str, env.Model]) -> dict[str, dict]:
  """Every evaluation split by every model, and speeds taken in turn."""
  rows, calls, sizes = {}, {}, plan.c.eval.batch_size
  buckets = plan.c.data.buckets
  splits = [s for s in plan.spec.evaluation if s in plan.data and env.labelled(plan.data[s])]
  few = head(plan.data[splits[0]], 512)
  for name, model in models.items():
    cut, params = _cut(plan, name, model)
    forward, score = evaluate.forward(cut, plan.mesh), _scorer(plan, cut)
    params = sharding.everywhere(params, plan.mesh)
    rows[name] = dict(parameters=model.parameters)
    for split in splits:
      rows[name][split] = score(params, plan.data[split])
    calls[name] = lambda f=forward, p=params: evaluate.logits(f, p, few, sizes, buckets, plan.mesh)
  for name, value in evaluate.speed(calls, len(few.index)).items():
    rows[name]['examples_per_second'] = value
  return rows


def _cut(plan, name: str, model: env.Model):
  """(net, parameters); the teacher reads its own token ids where they are others."""
  cut, params = net.split(model.module)
  view = plan.env.teacher.view if name == 'teacher' else ''
  return dataclasses.replace(cut, view=view), params


def _scorer(plan, cut: net.Net):
  return evaluate.scorer(
    cut,
    plan.env.task,
    plan.spec.metrics,
    plan.c.eval.batch_size,
    plan.c.data.buckets,
    plan.mesh,
  )


def head(data, rows: int):
  """The first rows of a data set."""
  cut = lambda t: t and type(t)(*(a[:rows] for a in t))  # noqa: E731
  return data._replace(
    tokens=cut(data.tokens),
    teacher=cut(data.teacher),
    label=data.label[:rows],
    index=data.index[:rows],
  )


def fields(c, name: str):
  """config.train as this run has it: seed added, the teacher with epochs and rate of its own."""
  own = c.train.copy_and_resolve_references()
  with own.unlocked():
    own.seed = c.seed
  if name == 'teacher':
    own.update(dict(epochs=c.teacher.epochs, steps=c.teacher.steps, rate=c.teacher.rate))
  return own


def _asked(c, name: str) -> dict[str, Any]:
  """What decides the outcome of a run, flat: 'train.rate' -> value."""
  tree = {k: v for k, v in c.to_dict().items() if k not in (*_FREE, 'method')}
  tree['train'] = {k: v for k, v in tree['train'].items() if k not in _FREE_TRAIN}
  tree['data'].pop('cache')
  if name == 'teacher':
    tree.pop('student')
    for field in ('epochs', 'steps', 'rate'):
      tree['train'].pop(field)
  else:
    tree['method'] = block(c, name).to_dict()
  return json.loads(json.dumps(_flat(tree)))  # tuples become lists, as they do on disk


def _flat(tree: dict, prefix: str = '') -> dict[str, Any]:
  out = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      out |= _flat(value, f'{prefix}{key}.')
    else:
      out[prefix + key] = value
  return out


def done(workdir: pathlib.Path) -> bool:
  """Whether the run in this folder came to its end."""
  return (workdir / 'result.json').exists() and (workdir / 'model').is_dir()


def _same_run(workdir: pathlib.Path, asked: dict) -> None:
  """ValueError where the folder holds a run that was asked something else."""
  path = workdir / 'run.json'
  if not path.exists():
    return
  there = report.read_json(path)
  differ = sorted(k for k in asked.keys() | there.keys() if asked.get(k) != there.get(k))
  if differ:
    some = ', '.join(f'{k}: {there.get(k)!r} there, {asked.get(k)!r} now' for k in differ[:4])
    raise ValueError(
      f'{workdir} holds another run ({some}): take another --workdir, or delete that folder'
    )


def chosen(c, workdir: pathlib.Path) -> pathlib.Path:
  """The model that eval, predict and export take: config.eval.model, or this method's."""
  where = pathlib.Path(c.eval.model) if c.eval.model else workdir / c.method.name / 'model'
  if not where.is_dir():
    raise ValueError(f'no model in {where}: train first, or set config.eval.model')
  return where


def evaluation(c, workdir: pathlib.Path) -> dict[str, dict[str, float]]:
  """Score the chosen model on every labelled evaluation split (or config.eval.split)."""
  where = chosen(c, workdir)
  c, spec, text = env.read(c)
  classifier = predict.load(str(where), batch_size=c.eval.batch_size, max_length=c.data.max_length)
  classifier.check(spec)
  out = {}
  for split in (c.eval.split,) if c.eval.split else spec.evaluation:
    if split not in text.splits:
      log.logger.info(f'{split}: not in {text.origin}')
      continue
    out[split] = classifier.score(text.splits[split], spec)
  if not out:
    raise ValueError(f'none of the splits {c.eval.split or spec.evaluation} is in {text.origin}')
  report.write_json(workdir / 'eval.json', dict(model=str(where), metrics=out))
  print(json.dumps(out, indent=2))
  return out


def prediction(c, workdir: pathlib.Path) -> pathlib.Path:
  """Write predictions of the chosen model for a split, as csv."""
  where = chosen(c, workdir)
  c, spec, text = env.read(c)
  split = c.eval.split or next(
    (s for s in ('test', 'validation') if s in text.splits), spec.evaluation[0]
  )
  if split not in text.splits:
    raise ValueError(f'no split {split!r} in {text.origin}: there are {", ".join(text.splits)}')
  classifier = predict.load(str(where), batch_size=c.eval.batch_size, max_length=c.data.max_length)
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
  first, second = (net.split(hf.load(str(d))[0])[1] for d in (where, spare))
  if not all(map(np.array_equal, *(_leaves(p) for p in (first, second)))):
    raise RuntimeError(f'{spare} does not read back as {where}')
  if target.exists():
    target.rmdir()
  spare.rename(target)
  print(f'exported {where} to {target}')
  return target


def _leaves(params):
  return [np.asarray(p) for p in jax.tree.leaves(params)]
