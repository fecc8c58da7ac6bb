"""The command of kdjax.main that is one job of a grid, from its config alone."""

import importlib
import shlex

from kdjax import runs
from kdjax.grid import jobs

_TOLD = ('name', 'compare', 'baselines')


def of(job: jobs.Job) -> str:
  """A line for a shell: the config file of one of its methods, and the fields that differ."""
  own, names = None, runs.names(job.c)
  for name in reversed(names):  # a file has the name of its method; variants are in one of these
    try:
      own = importlib.import_module(f'configs.{name}')
    except ModuleNotFoundError:
      continue
    break
  if own is None:
    return f'# no config file is named after {", ".join(names)}: {job.workdir}/config.json has it'
  fields = own.get_config(job.c.task.name)
  there = _fields(fields, name)
  wanted = _fields(job.c, name) | {'compare': ','.join(n for n in names if n != name)}
  there['compare'] = fields.compare
  changed = {k: v for k, v in wanted.items() if there.get(k) != v}
  flags = [f'--config=configs/{name}.py:{job.c.task.name}', f'--workdir={job.workdir}']
  flags += [f'--config.{k}={v}' for k, v in changed.items()]
  return shlex.join(['python', '-m', 'kdjax.main', *flags])


def _fields(c, name: str) -> dict:
  """By name; methods beside the config's own under baselines, those that it runs alone."""
  tree = c.to_dict()
  rest = {k: v for k, v in tree.items() if k not in (*_TOLD, 'method')}
  rest['method'] = runs.block(c, name).to_dict()
  others = {n: runs.block(c, n).to_dict() for n in c.baselines if n != name}
  return runs.flat(rest | dict(baselines=others))
