"""A grid on a toy task on disk: teacher, fine-tuning, KD, token replacement; two seeds."""

import pathlib

import numpy as np

from tests import toy

STEPS = {'train.steps': 4, 'teacher.steps': 4, 'train.eval_every': 2, 'data.development': 0.25}


def config(folder: pathlib.Path, **changes):
  """configs/grid.py:quick on the toy task; the same files each time."""
  from configs import grid

  folder.mkdir(parents=True, exist_ok=True)
  c = grid.get_config('quick')
  toyed = toy.config('kd', folder, np.random.default_rng(0), **STEPS)
  for part in ('task', 'data', 'teacher', 'student', 'train', 'eval'):
    c[part].update(toyed[part].to_dict())
  c.grid.tasks, c.grid.methods = 'own', 'finetune,kd,token_replace'
  c.data.train_size = 0
  c.task.metrics = 'accuracy,f1_macro'
  c.data.test = str(toy.file(folder / 'test.csv', np.random.default_rng(1), 20))
  c.update_from_flattened_dict(changes)
  return c.lock()


def run(c, workdir: pathlib.Path) -> dict:
  """What kdjax.reproduce does, without flags: the tree of grid.json."""
  from kdjax import jobs as single
  from kdjax.grid import gather, jobs, scores

  todo = jobs.of(c, workdir, None)
  for job in todo:
    if names := scores.missing(job):
      scores.write(job, single.prepare(job.c, job.workdir), {}, names)
  return gather.grid(todo, workdir, jobs.methods(c), resamples=50)
