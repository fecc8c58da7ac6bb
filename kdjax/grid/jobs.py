"""Which training jobs a grid has: each a workdir that kdjax.main's own runs fill and resume."""

import itertools
import json
import pathlib
from typing import Any, NamedTuple

from kdjax import env, runs, tasks
from kdjax.data import ood

REST = 'train_rest'  # a split: training rows that a share left out, of which there are many


class Job(NamedTuple):
  """Methods of one task that share data, teacher and config.train: one job of kdjax.main.

  c: its whole config; c.name and c.compare are its methods. workdir: several jobs share it, of
  methods with fields that the others do not have, by one teacher. sets: from elsewhere, on which
  its models are tested too, at most so many rows of each (0: all), in folder ood_dir ('': the
  hub). search: scored on the split that chooses its checkpoints, and on no other. rest: at most so
  many training rows that its share left out are one more split.
  """

  task: str
  fraction: float
  c: Any
  workdir: pathlib.Path
  sets: tuple[str, ...] = ()
  rows: int = 0
  ood_dir: str = ''
  search: bool = False
  rest: int = 0

  @property
  def names(self) -> list[str]:
    """What is scored: the teacher and every method."""
    return ['teacher', *runs.names(self.c)]


def of(c, workdir: pathlib.Path, teachers: int | None) -> list[Job]:
  """All jobs, in the order of tasks, shares of the data, seeds, methods.

  Args:
    c: a grid's config, or one of a method: a grid of its task, with what it is compared to.
    teachers: seeds 0, 1, ... with a teacher each, where config.seeds is 1; None: 3. Where it is
      more, all seeds have one teacher, and each method trains them in one program.

  Raises:
    ValueError: with the key of the config.
  """
  if c.seeds > 1 and teachers is not None:
    raise ValueError(
      f'--seeds={teachers} is of seeds with a teacher each, config.seeds={c.seeds} of seeds with '
      'one teacher for all: set one of them'
    )
  numbers = [None] if c.seeds > 1 else list(range(3 if teachers is None else teachers))
  out = []
  for task, fraction, own, where in _settings(c, workdir):
    for number in numbers:
      folder = where if number is None else where / f'seed{number}'
      for one in _groups(c, own):
        if number is not None:
          one.seed = number
        job = Job(task, fraction, one.lock(), folder)
        if 'grid' in c:
          sets = tuple(ood.names(c.grid.ood, task)) * (not c.grid.search)  # a search reads none
          job = job._replace(sets=sets, rows=c.grid.ood_rows, ood_dir=c.grid.ood_dir)
          job = job._replace(search=c.grid.search, rest=c.grid.rest)
        out.append(job)
  return out


def methods(c) -> list[str]:
  """Methods of a grid, or of a method's config, in the order of the table."""
  return _parts(c.grid.methods) if 'grid' in c else runs.names(c)


def _settings(c, workdir: pathlib.Path):
  """(task, share of train, config, folder) of each column of the grid."""
  if 'grid' not in c:
    if runs.masked(c):
      raise ValueError(f'{c.method.name} trains no classifier: its table is of guesses')
    yield c.task.name, c.data.train_fraction, c, workdir
    return
  names, fractions = _parts(c.grid.tasks), tuple(c.grid.fractions)
  if not names or not fractions or len(set(names)) < len(names):
    raise ValueError('config.grid.tasks and config.grid.fractions: one or more, none of them twice')
  if not c.grid.get('text', 'not asked for'):
    raise ValueError(
      'config.grid.text names no text without labels: a file, a folder or a pattern, as '
      'config.data.unlabelled reads it; benchmarks/texts.py writes one of other tasks'
    )
  for field, known in dict(of_task=tasks.names(), of_method=c.baselines).items():
    if unknown := [name for name in c.grid[field] if name not in known]:
      raise ValueError(
        f'config.grid.{field} names {", ".join(unknown)}: none of {", ".join(sorted(known))}'
      )
  seen = set()
  for task, fraction in itertools.product(names, fractions):
    own = c.copy_and_resolve_references()
    with own.unlocked():
      del own['grid']
    own.task.name, own.data.train_fraction = task, float(fraction)
    _change(own, c.grid.of_task, task, 'task')
    where = workdir / task / f'train{own.data.train_fraction:g}'
    if where not in seen:  # a task may have a share of its own, whatever the fractions
      seen.add(where)
      yield task, own.data.train_fraction, own, where


def _groups(c, own) -> list[Any]:
  """Configs of the methods, one for all those that share everything but their own fields."""
  if 'grid' not in c:
    return [own.copy_and_resolve_references()]
  found: dict[str, tuple[Any, list[str]]] = {}
  names = methods(c)
  if not names or len(set(names)) < len(names):
    raise ValueError('config.grid.methods: one or more, none of them twice')
  for name in names:
    if name not in own.baselines:
      raise ValueError(
        f'config.grid.methods names {name}: none of {", ".join(sorted(own.baselines))}'
      )
    one = own.copy_and_resolve_references()
    _change(one, c.grid.of_method, name, 'method')
    shared = {k: v for k, v in one.to_dict().items() if k != 'baselines'}
    group = found.setdefault(json.dumps(shared, sort_keys=True), (one, []))
    group[0].baselines[name].update(one.baselines[name])
    group[1].append(name)
  for one, members in found.values():
    with one.unlocked():
      one.name = members[-1]
      one.compare = ','.join(members[:-1])
      one.method = one.baselines[members[-1]].copy_and_resolve_references()
  out = [one for one, _ in found.values()]
  _agree(out)
  return out


def _agree(each: list[Any]) -> None:
  """ValueError where configs of one folder ask different things of the models that all use."""
  settled = [env.settle(c)[0] for c in each] if len(each) > 1 else []
  for name in ('teacher', 'generator'):
    using = [c for c in settled if name == 'teacher' or name in runs.order(c)]
    told = [(c.name, runs.asked(c, name), name in runs.order(c)) for c in using]
    for (one, a, trained), (other, b, too) in itertools.pairwise(told):
      keys = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
      if not (trained and too):  # what is taken as it is has its own fields alone
        keys = [key for key in keys if key.startswith('teacher.')]
      if keys:
        raise ValueError(
          f'config.grid.of_method: {one} and {other} share one {name}, and ask it for other '
          f'{", ".join(keys)}: set that for all methods, or give one of them another --workdir'
        )


def _change(c, changes, name: str, kind: str) -> None:
  """The fields of config.grid.of_<kind>.<name>, where there are any, into the config."""
  if name not in changes:
    return
  c.lock()  # a field that there is not is an error
  try:
    c.update(changes[name].to_dict())
  except (AttributeError, KeyError, TypeError) as error:
    said = ' '.join(str(error).split())
    raise ValueError(f'config.grid.of_{kind}.{name}: {said}') from None


def _parts(text: str) -> list[str]:
  return [part.strip() for part in text.split(',') if part.strip()]
