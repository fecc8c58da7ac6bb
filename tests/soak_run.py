"""A long run at toy size that counts what it holds: python -m tests.soak_run CONFIG FOLDER STEPS.

Prints a line of json at every evaluation of the config's own method.
"""

import gc
import json
import os
import pathlib
import sys

import jax
import numpy as np

from kdjax import jobs, main, train
from tests import toy

EVERY = 500  # steps between evaluations, which Orbax remembers a little of


def held() -> dict[str, int]:
  """What a leak would raise: memory in KiB, open files, threads, arrays, Python's objects."""
  gc.collect()
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  sizes = dict(line.split(':', 1) for line in lines)
  return dict(
    # Its own pages, wherever they are: those of mapped files come and go as the machine likes.
    memory=sum(int(sizes[k].removesuffix('kB')) for k in ('RssAnon', 'VmSwap')),
    files=len(os.listdir('/proc/self/fd')),
    threads=len(os.listdir('/proc/self/task')),
    arrays=len(jax.live_arrays()),
    objects=len(gc.get_objects()),
  )


def run(name: str, folder: pathlib.Path, steps: int) -> None:
  """Evaluation and checkpoint, and a row of the log and of TensorBoard every 10 steps."""
  changes = {'train.steps': steps, 'train.eval_every': EVERY, 'train.log_every': 10}
  changes |= {'train.tensorboard': True, 'compare': ''}
  c = toy.config(name, folder, np.random.default_rng(0), **changes)
  fit = train.fit

  def watched(method, params, data, score, *rest):
    def counted(params):
      found = score(params)
      if rest[-1] == name:
        print(json.dumps(held()), flush=True)
      return found

    return fit(method, params, data, counted, *rest)

  train.fit = watched
  jobs.run(jobs.prepare(c, folder / 'work'))


if __name__ == '__main__':
  main.start()
  run(sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]))
