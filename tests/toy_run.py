"""A whole run at toy size, a process of its own: python -m tests.toy_run CONFIG FOLDER WORKDIR."""

import pathlib
import sys

import jax
import numpy as np

from kdjax import jobs, lock, main
from tests import toy


def run(name: str, folder: pathlib.Path, workdir: pathlib.Path) -> None:
  """The same files, hence the same run, each time."""
  folder.mkdir(parents=True, exist_ok=True)
  changes = {'train.steps': 12, 'train.eval_every': 3, 'compare': '', 'teacher.steps': 6}
  c = toy.config(name, folder, np.random.default_rng(0), **changes)
  with lock.of(workdir):
    jobs.run(jobs.prepare(c, workdir))


if __name__ == '__main__':
  main.start()
  jax.config.update('jax_platforms', 'cpu')
  run(sys.argv[1], *map(pathlib.Path, sys.argv[2:4]))
