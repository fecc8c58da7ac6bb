"""The runs of a config: which there are, in what order, and what each was asked.

A run is a folder of the workdir: teacher, generator, and each method by its name.
"""

import importlib
import itertools
import json
import pathlib
from collections.abc import Callable
from typing import Any

from kdjax import report

# Fields that do not change what a run computes: a finished run stands whatever they are.
_FREE = ('name', 'compare', 'baselines', 'eval', 'export', 'mesh')
_FREE_TRAIN = ('keep', 'log_every', 'remat', 'resident', 'tensorboard', 'wandb')
_OWN = ('epochs', 'steps', 'rate')  # of config.teacher and config.generator, instead of train's
# In run.json beside what it was asked: the lengths of its batches, and the data that it found.
_LENGTHS, _DATA = 'lengths', 'data'
_BESIDE = ('teacher', 'generator')  # runs of the models beside the student
_GOLD = ('finetune',)  # methods that ask nobody but the gold labels
_MASKED = ('mlm', 'mlm_kd')  # methods of masked language models


def names(c) -> list[str]:
  """The methods of a config in order, its own last."""
  own = c.name
  wanted = [n.strip() for n in c.compare.split(',') if n.strip()]
  unknown = [n for n in wanted if n not in c.baselines]
  if unknown:
    raise ValueError(
      f'config.compare names {", ".join(unknown)}: none of {", ".join(sorted(c.baselines))}'
    )
  out = [n for n in dict.fromkeys(wanted) if n != own] + [own]
  others = [n for n in out if (block(c, n).name in _MASKED) != masked(c)]
  if others and 'mlm' not in out:
    raise ValueError(
      f'config.compare={c.compare!r} beside method {own!r}: {", ".join(others)} and {own} train '
      'models of different kinds, masked language models and classifiers'
    )
  if 'mlm' in out and len(out) > 1:
    raise ValueError(
      f'config.compare={c.compare!r} beside method {own!r}: mlm trains a generator, no classifier, '
      'and runs alone'
    )
  return out


def order(c) -> list[str]:
  """Every run of a config: what is trained first comes first."""
  methods = names(c)
  if c.seeds > 1 and alone(c):
    raise ValueError(
      f'config.seeds={c.seeds} is of students, and method mlm trains a generator alone, which all '
      'seeds share: set config.seeds=1'
    )
  if not alone(c):
    generator = 'generator' in cast(c) and c.generator.finetune
    return ['teacher'] * c.teacher.finetune + ['generator'] * generator + methods
  if not c.generator.finetune:
    raise ValueError('config.generator.finetune=False leaves method mlm nothing to train')
  return ['generator']


def masked(c) -> bool:
  """Whether all that a config trains are masked language models."""
  return c.method.name in _MASKED


def gold(c, name: str) -> bool:
  """Whether a run learns from gold labels alone: rows without one are not for it."""
  return block(c, name).name in _GOLD


def alone(c) -> bool:
  """Whether a config trains a masked language model alone: no teacher, no student."""
  return c.method.name == 'mlm'


def cast(c) -> tuple[str, ...]:
  """The models that a config needs."""
  if alone(c):
    return ('generator',)
  generator = any(uses_generator(c, name) for name in names(c))
  return ('teacher', 'student') + ('generator',) * generator


def uses_generator(c, name: str) -> bool:
  """Whether the method of this run plays with a generator."""
  own = block(c, name)
  return 'generator' in own and bool(own.generator)


def block(c, name: str):
  """The method's fields of one of the runs."""
  if name in _BESIDE:
    name = 'mlm' if name == 'generator' or masked(c) else 'finetune'
  return c.method if name == c.name else c.baselines[name]


def refits(c, name: str) -> bool:
  """Whether a run ends with a new bias: students do, of which some learn from other text."""
  return c.train.refit_bias and name not in _BESIDE


def fields(c, name: str):
  """config.train as this run has it: seed added; teacher and generator have rates of their own."""
  own = c.train.copy_and_resolve_references()
  with own.unlocked():
    own.seed = c.seed
  if name in _BESIDE:
    own.update({field: c[name][field] for field in _OWN})
  return own


def asked(c, name: str) -> dict[str, Any]:
  """What decides the outcome of a run, flat: 'train.rate' -> value."""
  tree = {k: v for k, v in c.to_dict().items() if k not in (*_FREE, 'method')}
  tree['train'] = {k: v for k, v in tree['train'].items() if k not in _FREE_TRAIN}
  tree['data'].pop('cache')
  if gold(c, name):
    tree['data'].update(unlabelled='', new_pairs=0)
    if not c.data.train:  # these are columns of that text, and of nothing else
      tree['data'].update(text='text', pair='')
  if not tree['data']['new_pairs']:
    tree['data'].pop('new_pairs')  # as runs have it that were asked before there was such a field
  if not refits(c, name):
    tree['train'].pop('refit_bias')
  many = tree.pop('seeds')
  if many > 1 and name not in _BESIDE:
    tree['seeds'] = many
  generator = tree.pop('generator')
  if name in _BESIDE:
    tree.pop('student')
    tree['teacher'].pop('cache')  # of its answers, once it is trained
    for field in _OWN:
      tree['train'].pop(field)
  if name == 'generator':
    teacher = tree.pop('teacher')
    if generator['init'] in ('teacher', 'random'):
      tree['teacher'] = dict(init=teacher['init'])
  if name != 'teacher' or masked(c):
    tree['method'] = block(c, name).to_dict()
  if name == 'generator' or (name not in _BESIDE and uses_generator(c, name)):
    tree['generator'] = generator
    if name != 'generator' and generator['finetune']:
      tree['mlm'] = block(c, 'mlm').to_dict()
  if masked(c) and name not in _BESIDE and c.teacher.finetune:
    tree['mlm'] = block(c, 'mlm').to_dict()  # how its teacher learned
  return json.loads(json.dumps(flat(tree)))  # tuples become lists, as they do on disk


def check_own(c) -> None:
  """ValueError where fields of the config's own method were set among baselines, in vain."""
  if c.name not in c.baselines:
    return
  own, method = c.baselines[c.name].to_dict(), c.method.to_dict()
  common = _shipped()
  known = common.config(c.task.name, 'kd').baselines if common else {}
  default = known[c.name].to_dict() if c.name in known else own
  apart = [key for key in own if own[key] not in (method.get(key), default.get(key))]
  if apart:
    raise ValueError(
      f'config.baselines.{c.name}.{apart[0]}={own[apart[0]]!r} is of the method that the config is '
      f'of: set config.method.{apart[0]}'
    )


def _shipped():
  """configs.common, which has all fields as they ship; None where the config was made elsewhere."""
  try:
    return importlib.import_module('configs.common')
  except ImportError:
    return None


def changed(c, name: str) -> dict[str, Any]:
  """Of what a run is asked, the fields that its method and task do not have by default."""
  if (common := _shipped()) is None:
    return asked(c, name)
  known = common.config(c.task.name, 'kd').baselines
  plain = common.config(c.task.name, c.method.name if c.method.name in known else 'kd')
  if name not in (*_BESIDE, *known):  # a variant, beside its method's own fields
    own = block(c, name).name
    plain.baselines[name] = known[own if own in known else 'kd']
  plain = asked(plain, name)
  return {k: v for k, v in asked(c, name).items() if plain.get(k, ...) != v}


def facts(c) -> dict[str, Any]:
  """All fields by name, 'config.train.rate', and the versions: what hosts must have in common."""
  found = flat(c.copy_and_resolve_references().to_dict(), 'config.')
  return found | {f'the version of {k}': v for k, v in report.versions().items()}


def flat(tree: dict, prefix: str = '') -> dict[str, Any]:
  out = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      out |= flat(value, f'{prefix}{key}.')
    else:
      out[prefix + key] = value
  return out


def folders(c, workdir: pathlib.Path) -> dict[int, pathlib.Path]:
  """By seed, where a run's model, result and log are: of one seed, in the run's own folder."""
  if c.seeds == 1 or workdir.name in _BESIDE:
    return {c.seed: workdir}
  return {seed: workdir / f'seed{seed}' for seed in range(c.seed, c.seed + c.seeds)}


def done(c, workdir: pathlib.Path) -> bool:
  """Whether the run in this folder came to its end, with all of its seeds."""
  models = (folder / 'model' for folder in folders(c, workdir).values())
  return (workdir / 'result.json').exists() and all(model.is_dir() for model in models)


def differ(workdir: pathlib.Path, asked: dict) -> str:
  """What the run in this folder was asked instead; '' where that is the same, or there is none."""
  if (noted := _noted(workdir)) is None:
    return ''
  return _apart({k: v for k, v in noted.items() if k not in (_LENGTHS, _DATA)}, asked)


def _apart(there: dict, now: dict) -> str:
  keys = sorted(k for k in now.keys() | there.keys() if now.get(k) != there.get(k))
  return ', '.join(f'{k}: {there.get(k)!r} there, {now.get(k)!r} now' for k in keys[:4])


def begin(workdir: pathlib.Path, asked: dict, shapes: tuple[int, ...], data: dict) -> None:
  """Write down what the run in this folder is asked, the lengths of its batches, its data."""
  report.write_json(workdir / 'run.json', asked | {_LENGTHS: shapes, _DATA: data})


def began(workdir: pathlib.Path) -> list[int]:
  """The lengths of batches that the run in this folder goes on with; [] where it is to begin."""
  return (_noted(workdir) or {}).get(_LENGTHS, [])


def moved(workdir: pathlib.Path, now: Callable[[], dict]) -> str:
  """What data the run in this folder found instead; '' where they are these, or it does not say."""
  there = found(workdir)
  return _apart(there, now()) if there else ''


def found(workdir: pathlib.Path) -> dict:
  """What the run in this folder found in its files; {} where it does not say."""
  return (_noted(workdir) or {}).get(_DATA, {})


def _noted(workdir: pathlib.Path) -> dict | None:
  path = workdir / 'run.json'
  return report.read_json(path) if path.exists() else None


def same(workdir: pathlib.Path, asked: dict) -> None:
  """ValueError where the folder holds a run that was asked something else."""
  said = differ(workdir, asked)
  if said:
    raise ValueError(
      f'{workdir} holds another run ({said}): take another --workdir, or --fork, which renames '
      'that folder and begins anew'
    )


def set_aside(workdir: pathlib.Path) -> pathlib.Path:
  """Rename a run's folder: teacher becomes teacher.1, or the first number that is free."""
  numbered = (workdir.with_name(f'{workdir.name}.{n}') for n in itertools.count(1))
  return workdir.rename(next(path for path in numbered if not path.exists()))
