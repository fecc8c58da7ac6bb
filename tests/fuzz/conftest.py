"""fuzz(inputs, once): many fresh inputs to one reader, and how many were read or refused."""

import collections
import os
import resource
import sys

import hypothesis
import pytest

_SOME = 25  # inputs of each target in an ordinary test run
_MANY = int(os.environ.get('KDJAX_FUZZ', '1000'))  # with pytest -m slow
_PEAK = 1 << 30  # bytes that all inputs of a target may add to the process at its greatest


@pytest.fixture(params=[_SOME, pytest.param(_MANY, marks=pytest.mark.slow)])
def fuzz(request, capsys):
  """Calls once(input) -> 'read' or 'refused' with fresh inputs of a strategy.

  A failure shows the least input that fails, and how to have it again.
  """

  def run(inputs, once, share=1.0):
    counts, n, before = collections.Counter(), max(5, round(share * request.param)), _memory()

    @hypothesis.settings(
      max_examples=n,
      deadline=None,
      database=None,
      print_blob=True,
      suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(inputs)
    def each(given):
      counts[once(given)] += 1

    each()
    assert sum(counts.values()) >= n
    assert _memory() - before < _PEAK
    if request.param == _MANY:
      with capsys.disabled():
        told = ', '.join(f'{count} {what}' for what, count in sorted(counts.items()))
        print(f'\n{request.node.originalname}: {sum(counts.values())} inputs, {told}')

  return run


def _memory() -> int:
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else 1024 * peak
