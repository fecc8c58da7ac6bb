"""The mode train of the command line: a plan, and its runs one after another.

A workdir holds one folder per run (teacher, generator, and each method by name), each with run.json
(what it was asked), result.json (once it is done), log.jsonl, checkpoints, and model: a HuggingFace
folder. Of several seeds, result.json and log.jsonl have means and spreads, and folders seed0, seed1
and so on have model, result.json and log.jsonl of each.
"""

import pathlib
import time

from kdjax import (
  env,
  evaluate,
  hosts,
  log,
  masked,
  methods,
  net,
  refit,
  report,
  roles,
  runs,
  seeds,
  sharding,
  staging,
  train,
  unlabelled,
)
from kdjax.data import batches
from kdjax.methods import base


def prepare(c, workdir: pathlib.Path, cache: str = '', fork: bool = False) -> env.Plan:
  """Every check there is, before anything is trained.

  cache: a folder for token ids instead of the workdir's; nothing is then written to the workdir.
  fork: runs that were asked something else, or found other data in the same files, are set aside,
  once all is checked, not refused.
  """
  # A teacher that was set aside is no longer theirs who begin anew.
  return _prepare(c, workdir, cache, fork) or _prepare(c, workdir, cache, False)


def _prepare(c, workdir: pathlib.Path, cache: str, fork: bool) -> env.Plan | None:
  """The same; None where what was set aside is among what others were to begin from."""
  wanted = runs.order(c)
  log.check(c.train.wandb)
  runs.check_own(c)
  if not cache:
    report.writable(workdir)
  c, spec = env.settle(c)
  for name in runs.names(c):
    base.check_images(runs.block(c, name).name, spec.images)
  if unlabelled.beside(c) and runs.gold(c, c.name):
    raise ValueError(
      f'{c.name} learns from gold labels alone, and config.data.unlabelled={c.data.unlabelled!r} '
      f'or new_pairs={c.data.new_pairs} has none: take a method that asks a teacher '
      '(configs/kd.py, augpro.py), or one of masked language models (mlm.py, mlm_kd.py)'
    )
  if c.train.refit_bias and (spec.kind != 'classes' or runs.masked(c)):
    raise ValueError(
      'config.train.refit_bias=True is for students that say one class of a row, and '
      f'{c.name} on {spec.name} trains another kind: set it to False'
    )
  c.data.cache = cache or c.data.cache
  others = hosts.agree(
    lambda: [name for name in wanted if runs.differ(workdir / name, runs.asked(c, name))]
  )
  for name in () if fork else others:
    runs.same(workdir / name, runs.asked(c, name))
  done = hosts.agree(lambda: [name for name in wanted if runs.done(c, workdir / name)])
  finished = {
    name: workdir / name / 'model'
    for name in ('teacher', 'generator')
    if name in done and name not in others
  }
  mesh = sharding.make_mesh(**c.mesh)
  for name in [name for name in wanted if name not in finished]:
    own = sharding.for_seeds(mesh, len(runs.folders(c, workdir / name)))
    sharding.check_batch(own, c.train.batch_size, c.train.accumulate, 'train.batch_size')
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
    methods.get(own.name)(own, world).check(*staging.steps_of(plan, name))
  if not runs.masked(c) and not env.labelled(plan.data[first]):
    raise ValueError(f'{first} has rows without a label: nothing to select by')
  if hosts.several():
    hosts.same({f'the data of {name}': batches.digest(data) for name, data in plan.data.items()})
  kept = [name for name in wanted if name not in others]
  other = hosts.agree(lambda: {name: said for name in kept if (said := staging.moved(plan, name))})
  if other and not fork:
    name, said = next(iter(other.items()))
    raise ValueError(
      f'{workdir / name} learned from other data than there are now ({said}): put those back, take '
      'another --workdir, or --fork, which renames that folder and begins anew'
    )
  stale = [] if cache else [*others, *other]
  hosts.agree(lambda: [_set_aside(workdir / name) for name in stale])
  return None if other.keys() & {'teacher', 'generator'} and not cache else plan


def _set_aside(folder: pathlib.Path) -> None:
  aside = runs.set_aside(folder)
  log.logger.info(f'{folder} held another run: it is now {aside.name}; {folder.name} begins anew')


def run(plan: env.Plan) -> dict[str, dict]:
  """Fine-tune teacher and generator, distil by every method, print and write the table."""
  models = trained(plan)
  if runs.masked(plan.c):
    return _guessed(plan, models)
  rows = _rows(plan, models)
  if hosts.first():
    report.table(rows, plan.spec, plan.workdir)
  return rows


def trained(plan: env.Plan) -> dict[str, list[roles.Model]]:
  """By name, the models of every run, one a seed; what is finished already is read.

  Where a masked language model is trained alone, it is all there is; else a generator is not in it.
  """
  c = plan.c
  if hosts.first():
    report.record(c, plan.workdir)
    if plan.spec.labels:
      report.write_json(plan.workdir / 'labels.json', dict(enumerate(plan.spec.labels)))
  teacher, generator = _ready(plan, 'teacher'), _ready(plan, 'generator')
  if runs.alone(c):
    return {'generator': [generator]}
  models, kind = {'teacher': [teacher]}, 'mlm' if runs.masked(c) else 'classify'
  starts = [roles.student(own, plan.spec, teacher, kind) for own in seeds.configs(c).values()]
  for name in runs.names(c):
    others = {'teacher': teacher}
    if runs.uses_generator(c, name):
      others['generator'] = generator
    models[name] = _run(plan, name, starts, others)
  return models


def _guessed(plan, models: dict[str, list[roles.Model]]) -> dict[str, dict]:
  learned = _learned(plan, models)
  return report.guesses(learned, plan.workdir) if hosts.first() else learned


def _ready(plan, name: str) -> roles.Model | None:
  """Teacher or generator, trained where that is asked; None where there is none."""
  model = getattr(plan, name)
  if name in runs.order(plan.c):
    return _run(plan, name, [model], {})[0]
  if model:
    # A wrong one, or a teacher with classes in another order, would fail in silence.
    cut, params = staging.placed(plan, name, model)
    data = plan.data[plan.spec.evaluation[0]]
    if staging.guesses(plan, name):
      _say(name, staging.scorer(plan, name, cut, plan.mesh)(params, data))
    else:
      scores, against = staging.judged(plan, name, model, data)
      _say(name, scores)
      for said in against:
        log.logger.warning(f'{name}: {said}')
  return model


def _run(
  plan, name: str, starts: list[roles.Model], others: dict[str, roles.Model]
) -> list[roles.Model]:
  """One run to its end, or its models where it is finished already.

  starts: what is trained, of each seed. others: whom else its method asks, by role.
  """
  workdir, c, guesses = plan.workdir / name, plan.c, staging.guesses(plan, name)
  folders, kind = runs.folders(c, workdir), 'mlm' if guesses else 'classify'
  if hosts.agree(lambda: runs.done(c, workdir)):
    log.logger.info(f'{name}: finished already, {workdir} is used')
    if name == 'generator':
      return [plan.generator]
    return [roles.load(c, plan.spec, own / 'model', kind) for own in folders.values()]
  workdir.mkdir(parents=True, exist_ok=True)
  shapes = tuple(hosts.agree(lambda: runs.began(workdir))) or staging.lengths_of(plan, name)
  if hosts.first():
    runs.begin(workdir, runs.asked(c, name), shapes, staging.data_of(plan, name))
  if not plan.spec.images:
    log.logger.info(f'{name}: {staging.said(plan, name, shapes)}{staging.mixed(plan, name)}')
  began = time.perf_counter()
  mesh, many = staging.mesh_of(plan, name), len(starts) > 1
  cut, params, method = staging.staged(plan, name, starts[0], others)
  each = [params] + [params | dict(student=net.split(m.module)[1]) for m in starts[1:]]
  judge, split = staging.scorer(plan, name, cut, mesh, many), plan.spec.evaluation[0]
  score = lambda params: judge(params, plan.data[split])  # noqa: E731
  before = [{} for _ in starts]
  if guesses:
    found = score(seeds.join([own['student'] for own in each]))
    before = [dict(before=own) for own in (found if many else [found])]
    _say(f'{name}, untrained', seeds.mean([own['before'] for own in before]))
  found = train.fit(
    method,
    each,
    staging.told(plan, name, method, others, shapes),
    score,
    runs.fields(c, name),
    shapes,
    workdir,
    mesh,
    name,
  )
  if guesses:
    _say(name, seeds.mean([own.metrics for own in found]))
  # Whole on each host: what is saved, and read by whoever learns from it.
  models = [
    start._replace(module=net.fill(start.module, sharding.whole(own.params)))
    for start, own in zip(starts, found, strict=True)
  ]
  measured = [own.metrics for own in found]
  if runs.refits(c, name):
    models, measured = _refitted(plan, name, models)
  told = report.Told(
    methods.about(runs.block(c, name).name),
    runs.changed(c, name),
    measured,
    _teacher_s(plan, name),
  )
  results = {}
  for i, (seed, folder) in enumerate(folders.items()):
    result = dict(
      split=split,
      rows=len(staging.rows_of(plan, name).index),
      **before[i],
      metrics=measured[i],
      best_step=found[i].step,
      last=found[i].last,
      steps=found[i].steps,
      seconds=round(time.perf_counter() - began, 1),
      parameters=starts[i].parameters,
    )
    labels = () if guesses else plan.spec.labels
    card = report.card(plan, name, result, seed, told)
    if hosts.first():
      folder.mkdir(exist_ok=True)
      roles.save(models[i], folder / 'model', labels, card, c.data.max_length)
      report.write_json(folder / 'result.json', result)
    results[seed] = result
  if many and hosts.first():  # the last to be written: it says that all seeds are there
    report.write_json(workdir / 'result.json', _joint(results))
  hosts.meet()
  return models


def _refitted(
  plan, name: str, models: list[roles.Model]
) -> tuple[list[roles.Model], list[dict[str, float]]]:
  """Classifiers with a bias fitted to the split that chose them, and how they score there."""
  split, out, scores = plan.spec.evaluation[0], [], []
  data, cut = plan.data[split], staging.placed(plan, name, models[0])[0]
  forward = evaluate.forward(cut, plan.mesh)
  for model in models:
    params = staging.placed(plan, name, model)[1]
    logits_NC = evaluate.logits(forward, params, data, *plan.scoring)
    by_C = refit.bias(logits_NC, data.label)
    own = refit.moved(net.split(model.module)[1], by_C)
    out.append(model._replace(module=net.fill(model.module, own)))
    scores.append(staging.scores(plan, logits_NC + by_C, data))
    said = ', '.join(f'{by:+.3f}' for by in by_C)
    log.logger.info(f'{name}: bias moved by {said}, fitted to {split}')
  _say(f'{name}, refitted', seeds.mean(scores))
  return out, scores


def _teacher_s(plan, name: str) -> dict[str, float]:
  """Metrics of the teacher whom a run has learned from, where it was fine-tuned here."""
  path = plan.workdir / 'teacher' / 'result.json'
  if name in ('teacher', 'generator') or not (hosts.first() and path.exists()):
    return {}
  return report.read_json(path)['metrics']


def _joint(results: dict[int, dict]) -> dict:
  """The results of all seeds: means and standard deviations of what they measured, and each."""
  each = list(results.values())
  out = {k: each[-1][k] for k in ('split', 'steps', 'seconds', 'parameters')}
  for moment in ('before', 'metrics'):
    if moment in each[0]:
      out[moment] = seeds.mean([own[moment] for own in each])
  std = seeds.std([own['metrics'] for own in each])
  return out | dict(std=std, seeds={str(seed): own for seed, own in results.items()})


def _say(name: str, scores: dict[str, float]) -> None:
  log.logger.info(f'{name}: ' + ', '.join(f'{k} {v:.4f}' for k, v in scores.items()))


def _learned(plan, models: dict[str, list[roles.Model]]) -> dict[str, dict]:
  """By name, what a run's result.json has; of a model that was taken as it is, its score alone."""
  out, split = {}, plan.spec.evaluation[0]
  for name, (model, *_) in models.items():
    if name in runs.order(plan.c):
      path = plan.workdir / name / 'result.json'
      out[name] = hosts.agree(lambda path=path: report.read_json(path))
      continue
    cut, params = staging.placed(plan, name, model)
    found = staging.scorer(plan, name, cut, plan.mesh)(params, plan.data[split])
    out[name] = dict(split=split, parameters=model.parameters, metrics=found)
  return out


def _rows(plan, models: dict[str, list[roles.Model]]) -> dict[str, dict]:
  """Every evaluation split by every model, and speeds taken in turn."""
  rows, calls, sizes = {}, {}, plan.scoring
  splits = [s for s in plan.spec.evaluation if s in plan.data and env.labelled(plan.data[s])]
  few = batches.part(plan.data[splits[0]], slice(512))
  for name, each in models.items():
    cut, first = staging.placed(plan, name, each[0])
    forward, score = evaluate.forward(cut, plan.mesh), staging.scorer(plan, name, cut, plan.mesh)
    scores = {}
    for seed, model in enumerate(each, plan.c.seed):
      params = staging.placed(plan, name, model)[1]
      scores[seed] = {split: score(params, plan.data[split]) for split in splits}
    rows[name] = dict(parameters=each[0].parameters) | seeds.summary(scores)
    calls[name] = lambda f=forward, p=first: evaluate.logits(f, p, few, *sizes)
  for name, value in evaluate.speed(calls, len(few.index)).items():
    rows[name]['examples_per_second'] = value
  return rows
