"""Memory that a step has freed is kept for the next one, where the CPU is what computes.

XLA asks the C library for a step's temporaries each time, hundreds of MB, and glibc hands blocks of
that size back to the kernel, which clears every page anew: a sixth of a training step of a small
encoder (docs/performance.md).
"""

import ctypes
import importlib.metadata
import importlib.util
import os

# Of glibc's malloc.h. One arena: those of other threads than the first are too small for a step.
_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD = -8, -4, -1, -2
_KEEP = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 64 << 20}
_SAID = ('GLIBC_TUNABLES', 'LD_PRELOAD')


def keep_pages() -> bool:
  """Ask glibc to; to be called before jax has a device, since its threads take what is set then.

  Not done, and False: another C library; a plug-in for an accelerator is installed; or the
  environment says something of the allocator itself (MALLOC_*, GLIBC_TUNABLES, LD_PRELOAD: even an
  empty one leaves all as it is).
  """
  said = any(name in _SAID or name.startswith('MALLOC_') for name in os.environ)
  plugged = importlib.metadata.entry_points(group='jax_plugins')
  if said or plugged or importlib.util.find_spec('libtpu'):
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  return mallopt is not None and all(mallopt(*option) for option in _KEEP.items())
