"""Freed memory stays with the process, unless somebody has said otherwise."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import numpy as np
from kdjax import allocator

done = allocator.keep_pages()
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
  before = count()
  np.ones(1 << 24)
  faults = count() - before
print(done, faults)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='of glibc')
@pytest.mark.parametrize('said', [{}, dict(MALLOC_TRIM_THRESHOLD_='1000'), dict(GLIBC_TUNABLES='')])
def test_pages_are_kept_unless_the_environment_says_otherwise(said):
  environment = {k: v for k, v in os.environ.items() if not k.startswith(('MALLOC_', 'GLIBC_'))}
  run = subprocess.run(
    [sys.executable, '-c', SCRIPT], env=environment | said, capture_output=True, text=True
  )
  assert run.returncode == 0, run.stderr
  done, faults = run.stdout.split()
  # 128 MB are 32,768 pages, or 64 large ones.
  assert (done, int(faults) < 10) == (('False', False) if said else ('True', True))
