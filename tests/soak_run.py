"""A long run at toy size that counts what it holds: python -m tests.soak_run CONFIG FOLDER STEPS.

Prints a line of json at every evaluation of the config's own method.
"""

import ctypes
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


class _Counts(ctypes.Structure):
  """mallinfo2 of glibc: the fifth is what is mapped, the eighth what is in use, in bytes."""

  _fields_ = (('of', ctypes.c_size_t * 10),)


def held() -> dict[str, int]:
  """What a leak would raise: memory in KiB, open files, threads, arrays, Python's objects."""
  gc.collect()
  heap = ctypes.CDLL(None).mallinfo2
  heap.restype = _Counts
  counts = heap().of
  return dict(
    memory=(counts[4] + counts[7]) >> 10,  # allocated: pages come and go as the machine likes
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
