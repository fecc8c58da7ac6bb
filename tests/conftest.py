"""Four simulated devices, no silent broadcasting, nothing from the network."""

import os
import tempfile
from importlib import metadata

# Tests compile much and run little: the older emitters of a CPU's loops compile in a third of the
# time. The benchmarks and the first command of the README run what users run.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 '
  '--xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1'
  # jaxlib 0.11 has no such flag, and ends a process that is given it.
  + ' --xla_cpu_use_fusion_emitters=false'
  * metadata.version('jaxlib').startswith('0.10.'),
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  # What one test has compiled the others load, in whichever process.
  programs = tempfile.TemporaryDirectory(prefix='kdjax-tests-', ignore_cleanup_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = programs.name
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'

import logging
import secrets

import jax
import numpy as np
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture
def rng(record_property):
  """A fresh numpy generator; its seed is in the report of a failure."""
  seed = secrets.randbits(32)
  record_property('seed', seed)
  print(f'seed {seed}')
  return np.random.default_rng(seed)


@pytest.fixture(autouse=True, scope='module')
def programs_of_one_file():
  """A file's compiled programs are let go with it: thousands of them end a process."""
  yield
  jax.clear_caches()


@pytest.fixture(autouse=True)
def lines_of_one_test():
  """What a command sets up of the log ends with the test: the next finds it as caplog needs it."""
  loggers = logging.getLogger('kdjax'), logging.root
  before = [(one.propagate, one.level, list(one.handlers)) for one in loggers]
  yield
  for one, (propagate, level, handlers) in zip(loggers, before, strict=True):
    one.propagate, one.handlers = propagate, handlers
    one.setLevel(level)


def pytest_collection_modifyitems(items):
  """Tests of one method stand side by side, and share its compiled programs."""
  files = {path: n for n, path in enumerate(dict.fromkeys(item.path for item in items))}

  def place(item):
    params = item.callspec.params if hasattr(item, 'callspec') else {}
    method = params.get('name') if item.path.name == 'test_methods.py' else ''
    return files[item.path], str(method or ''), str(params.get('changes', ''))

  items.sort(key=place)
