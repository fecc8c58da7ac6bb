"""A model as a function: at once for a few, or in batches."""

import numpy as np
import pytest

import kdjax
from tests import toy


@pytest.mark.parametrize('labels', [1, 3])
def test_at_once_answers_as_a_call_and_compiles_nothing_that_was_not_warm(tmp_path, rng, labels):
  clf = kdjax.load(toy.model(tmp_path, labels=labels, layers=1), batch_size=8)
  shapes = clf.warm()
  assert {length for _, length in shapes} == {16, 32}
  assert max(shapes)[0] == 8 and clf._forward._cache_size() == len(shapes)
  text = lambda: ' '.join(rng.choice(toy.WORDS, rng.integers(0, 40)))  # noqa: E731
  for n in (1, 5, 8, 19):
    for inputs in ([text() for _ in range(n)], [(text(), text()) for _ in range(n)]):
      found = clf.at_once(inputs)
      assert found.shape == ((n,) if labels == 1 else (n, labels))
      assert clf._forward._cache_size() == len(shapes)
      np.testing.assert_allclose(found, clf(inputs), atol=1e-5, rtol=0)
