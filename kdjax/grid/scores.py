"""What a trained model says and costs: predictions on disk, and the numbers of one run, score.json.

Predictions are <run>/predictions/<split>.npz: logits f32[S, n, C] of S seeds, label, index; of a
set from elsewhere also merge and group, as kdjax.data.ood has them. All numbers but times are
functions of those files; key says of which weights and rows they are, and what is there is not
answered again when a run is scored on more.
"""

import json
import pathlib
import zipfile

import jax
import numpy as np

from kdjax import env, evaluate, hosts, jobs, log, metrics, report, runs, staging, tasks, unlabelled
from kdjax.data import batches, ood, sources, table
from kdjax.grid import jobs as grid_jobs
from kdjax.grid import samples

FILE = 'score.json'
_TIMED = 256  # rows of which the throughput is taken
_ONE = 32  # rows of which the latency is: one at a time
POOLED = 'validation+test'  # where both are labelled and neither chose: more rows, less noise


def missing(job: grid_jobs.Job) -> list[str]:
  """Runs of a job that are not trained as is asked now, or not scored on its sets."""
  c = env.settle(job.c)[0]
  return [name for name in job.names if not (_trained(job, c, name) and _scored(job, name))]


def _trained(job: grid_jobs.Job, c, name: str) -> bool:
  if name not in runs.order(c):  # a teacher that is taken as it is
    return True
  folder = job.workdir / name
  return runs.done(c, folder) and not runs.differ(folder, runs.asked(c, name))


def _scored(job: grid_jobs.Job, name: str) -> bool:
  path, asked = job.workdir / name / FILE, _asked(job)
  there = path.exists() and report.read_json(path)['asked']
  # Of a teacher, another job of the workdir may have asked for the rest too.
  return there == asked or (name == 'teacher' and there == asked | dict(rest=job.rest))


def _asked(job: grid_jobs.Job) -> dict:
  asked = dict(sets=list(job.sets), rows=job.rows, search=job.search, pooled=POOLED)
  asked |= dict(ood_dir=job.ood_dir) if job.sets else {}
  return asked | (dict(rest=job.rest) if _with_rest(job) else {})


def _with_rest(job: grid_jobs.Job) -> bool:
  """Whether train_rest is asked for: not where text without labels may hold its rows."""
  return bool(job.rest) and not unlabelled.beside(job.c)


def write(job: grid_jobs.Job, plan: env.Plan, tests: dict[str, ood.Test], names: list[str]) -> None:
  """Train what is not trained, and score these runs, beside their teacher.

  Of several hosts all compute, and the first writes.
  """
  models = {k: v for k, v in jobs.trained(plan).items() if k in ('teacher', *names)}
  data = _data(job, plan, tests)
  sizes = plan.scoring
  calls, slow, said, teacher = {}, {}, {}, {}
  few = batches.part(data[plan.spec.evaluation[0]], slice(_TIMED))
  one = batches.part(few, slice(_ONE))
  for name, each in models.items():
    cut, first = staging.placed(plan, name, each[0])
    forward = evaluate.forward(cut, plan.mesh)
    params = [staging.placed(plan, name, model)[1] for model in each]
    folder, keys = job.workdir / name / 'predictions', _keys(params, data)
    there = hosts.agree(lambda folder=folder, keys=keys: sorted(_there(folder, keys)))
    known = _there(folder, {split: keys[split] for split in there})
    logits = {
      split: known[split]
      if split in known
      else np.stack([evaluate.logits(forward, p, own, *sizes) for p in params])
      for split, own in data.items()
    }
    logits, answered = _pooled(plan.spec, logits, data)
    teacher = teacher or logits
    if hosts.first():
      _keep(folder, logits, answered, tests, keys)
    said[name] = _run(job, plan, name, len(each), tests) | dict(
      parameters=each[0].parameters,
      samples=samples.of(plan, name, each[0], models['teacher'][0]),
      **_numbers(plan, name, logits, teacher, answered, tests),
    )
    calls[name] = lambda f=forward, p=first: evaluate.logits(f, p, few, *sizes)
    slow[name] = lambda f=forward, p=first: evaluate.logits(f, p, one, plan.mesh.rows, *sizes[1:])
  rates = evaluate.speed(calls, len(few.index))
  latencies = evaluate.speed(slow, -(-len(one.index) // plan.mesh.rows))
  for name, value in said.items():
    value['cost'] |= dict(examples_per_second=rates[name], latency_ms=1e3 / latencies[name])
    value['cost'] |= dict(faster=rates[name] / rates['teacher'])
    # A teacher that was scored before, beside other students, keeps its times.
    if hosts.first() and not (name == 'teacher' and _scored(job, name)):
      report.write_json(job.workdir / name / FILE, value)


def _data(job: grid_jobs.Job, plan: env.Plan, tests: dict[str, ood.Test]) -> dict:
  """All that is answered: splits but train, sets from elsewhere, GLUE's diagnostics."""
  if job.search:
    return {split: plan.data[split] for split in plan.spec.evaluation[:1]}
  found = {name: own for name, own in plan.data.items() if name != 'train'}
  found |= env.datasets(plan, {f'ood/{name}': test.table for name, test in tests.items()})
  found |= env.datasets(plan, _rest(job, plan))
  return found | env.datasets(plan, _diagnostics(plan))


def _rest(job: grid_jobs.Job, plan: env.Plan) -> dict[str, sources.Table]:
  """Training rows that the job's share left out, none of which says what a row of the share says.

  A seeded choice, in which classes keep their shares. None where the share is all of train.
  """
  if not _with_rest(job):
    return {}
  whole = plan.c.copy_and_resolve_references()
  whole.data.update(train_fraction=1.0, train_size=0)
  every = env.read(whole)[2].splits['train']
  known = set(table.keys(plan.text.splits['train']))
  left = [n for n, key in enumerate(table.keys(every)) if key not in known]
  if not left:
    return {}
  own = table.take(every, np.array(left))
  return {grid_jobs.REST: table.subset(own, 1.0, job.rest, plan.c.data.seed, plan.spec.kind)}


def _pooled(spec, logits: dict, data: dict) -> tuple[dict, dict]:
  """(logits, data) with validation and test in one, where neither chose and both are scored."""
  parts = [name for name in spec.evaluation[1:] if name in POOLED.split('+') and name in data]
  if len(parts) < 2:
    return logits, data
  joined = {
    field: np.concatenate([getattr(data[name], field) for name in parts])
    for field in ('label', 'index')
  }
  one = data[parts[0]]._replace(**joined)
  found = np.concatenate([logits[name] for name in parts], axis=1)
  return {POOLED: found} | logits, {POOLED: one} | data


def _diagnostics(plan: env.Plan) -> dict[str, sources.Table]:
  """GLUE's diagnostics, which the model of MNLI answers, where they are beside its data."""
  if plan.spec.name != 'mnli':
    return {}
  try:
    return dict(ax=sources.read(plan.c.data, tasks.GLUE['ax']).splits['test'])
  except ValueError as error:
    log.logger.info(f'no diagnostics, hence no file for GLUE: {error}')
    return {}


def _keys(params: list, data: dict) -> dict[str, str]:
  """By split, hex digests of all that decides a run's logits: its seeds' weights, the rows."""
  weights = evaluate.digest(params)
  return {split: f'{weights} {batches.digest(own)}' for split, own in data.items()}


def _there(folder: pathlib.Path, keys: dict[str, str]) -> dict[str, np.ndarray]:
  """Logits by split, as they were kept of the same weights and rows; a damaged file is none."""
  found = {}
  for split, key in keys.items():
    try:
      with np.load(folder / f'{split}.npz') as kept:
        if str(kept.get('key')) == key:
          found[split] = kept['logits']
    except FileNotFoundError:
      continue
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
      log.logger.warning(f'{folder}/{split}.npz is damaged ({error}): it is made anew')
  return found


def _keep(
  folder: pathlib.Path, logits, data, tests: dict[str, ood.Test], keys: dict[str, str]
) -> None:
  for split, found_SNC in logits.items():
    name = split.removeprefix('ood/')
    path = folder / f'{split}.npz'
    path.parent.mkdir(parents=True, exist_ok=True)
    more = dict(key=keys[split]) if split in keys else {}
    if split.startswith('ood/'):
      test = tests[name]
      more |= dict(merge=test.merge) | ({} if test.group is None else dict(group=test.group))
    spare = path.with_suffix('.tmp')
    with spare.open('wb') as file:
      own = data[split]
      np.savez(file, logits=found_SNC, label=own.label, index=own.index, **more)
    spare.replace(path)


def _run(job: grid_jobs.Job, plan: env.Plan, name: str, seeds: int, tests: dict) -> dict:
  """What a run was, what it cost and how it learned."""
  c, folder = plan.c, job.workdir / name
  own = {} if name == 'teacher' else runs.block(c, name).to_dict()
  numbers = [c.seed] if name == 'teacher' else list(range(c.seed, c.seed + seeds))
  return dict(
    task=job.task,
    fraction=job.fraction,
    run=name,
    seeds=numbers,
    rows=len(staging.rows_of(plan, name).index),
    kind=plan.spec.kind,
    labels=list(plan.spec.labels),
    metrics=list(plan.spec.metrics),
    chosen=plan.spec.evaluation[0],
    origin=plan.text.origin,
    asked=_asked(job),
    fields=json.loads(json.dumps(own)),
    rate=runs.fields(c, name).rate,
    cost=_training(folder, runs.fields(c, name), seeds),
    curve=_curve(folder, numbers),
    classes={name: list(test.classes) for name, test in tests.items()},
  )


def _training(folder: pathlib.Path, c, seeds: int) -> dict:
  """Steps, and seconds of training a seed: without evaluations and checkpoints.

  From the log, hence of all processes that a run took. An interval beyond five times the median,
  where a program was compiled, counts as the median.
  """
  if not (folder / 'log.jsonl').exists():  # a teacher that was taken as it is
    return dict(steps=0, seconds=0.0)
  lines = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
  rows = [row for row in lines if 'examples_per_second' in row]
  steps = np.diff([0, *(row['step'] for row in rows)])
  each = np.array([c.batch_size / row['examples_per_second'] for row in rows])
  usual = np.quantile(each, 0.5, method='lower')  # of two, the one without compilation
  each = np.where(each > 5 * usual, usual, each)
  return dict(steps=int(steps.sum()), seconds=float((steps * each).sum() / seeds))


def _curve(folder: pathlib.Path, numbers: list[int]) -> dict:
  """{'step': [..], 'accuracy': [[..], ..]}: each seed's scores on the split that chooses."""
  found: dict[str, list] = {}
  for number in numbers:
    own = folder / f'seed{number}' if len(numbers) > 1 else folder
    if not (own / 'log.jsonl').exists():
      return {}
    rows = [json.loads(line) for line in (own / 'log.jsonl').read_text().splitlines()]
    rated = [row for row in rows if any(key.startswith('validation/') for key in row)]
    found['step'] = [row['step'] for row in rated]
    for key in rated[0] if rated else ():
      if key.startswith('validation/'):
        values = [row[key] for row in rated]
        found.setdefault(key.removeprefix('validation/'), []).append(values)
  return found


def _numbers(plan: env.Plan, name: str, logits, teacher, data, tests) -> dict:
  """Of every split and set, each seed's metrics; and how a student agrees with its teacher."""
  spec = plan.spec
  order = [spec.evaluation[0], POOLED, *spec.evaluation[1:], grid_jobs.REST]  # the second judges
  scored = [s for s in order if s in data and env.labelled(data[s])]
  out = dict(
    scores={split: _scores(spec, logits[split], data[split].label) for split in scored},
    ood={name: _elsewhere(spec, test, logits[f'ood/{name}']) for name, test in tests.items()},
    agreement={},
  )
  if name != 'teacher':
    out['agreement'] = {
      split: _agreement(spec.kind, own, teacher[split][0]) for split, own in logits.items()
    }
  return out


def _scores(spec: tasks.Spec, logits_SNC: np.ndarray, label: np.ndarray) -> dict[str, list[float]]:
  decide = tasks.KINDS[spec.kind].decide
  C = logits_SNC.shape[2]
  each = [metrics.compute(spec.metrics, np.asarray(decide(x)), label, C) for x in logits_SNC]
  return {metric: [own[metric] for own in each] for metric in spec.metrics}


def _elsewhere(spec: tasks.Spec, test: ood.Test, logits_SNC: np.ndarray) -> dict[str, list[float]]:
  """What ood.scores says, and F1 where it is among the task's metrics and a set has two classes."""
  label, C = test.table.label, len(test.classes)
  more = ['f1'] if 'f1' in spec.metrics and C == 2 else []
  decided = [ood.decide(x, test.merge) for x in logits_SNC]
  each = [
    ood.scores(own, label, test.classes, test.group) | metrics.compute(more, own, label, C)
    for own in decided
  ]
  return {name: [own[name] for own in each] for name in each[0]}


def _agreement(kind: str, student_SNC: np.ndarray, teacher_NC: np.ndarray) -> dict:
  """Each seed's: same, the share of rows with one decision, and KL of student from teacher.

  Of scores: their Pearson correlation, and the mean squared difference.
  """
  task, first, second = tasks.KINDS[kind], 'same', 'kl'
  if kind == 'regression':
    first, second = 'pearson', 'mse'
  out = {first: [], second: []}
  for student_NC in student_SNC:
    a, b = (np.asarray(task.decide(x)) for x in (student_NC, teacher_NC))
    alike = metrics.METRICS['pearson' if kind == 'regression' else 'accuracy'](a, b)
    out[first].append(alike)
    out[second].append(float(jax.numpy.mean(task.gap(student_NC, teacher_NC, 1.0))))
  return out
