"""No implicit dtype or rank promotion in the encoders."""

import jax
import pytest


@pytest.fixture(autouse=True)
def strict():
  """Strict promotion for the length of a test."""
  with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
    yield
