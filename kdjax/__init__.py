"""kdjax: distil a fine-tuned text encoder into a small fast one, in JAX, on any device mesh."""

import os

__version__ = '0.1.0'

# transformers would say on its import that torch is not there: nobody needs it here.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')


def load(dir_or_id: str, **options):
  """A distilled (or any HuggingFace) classifier, ready for its input: see predict.Classifier."""
  from kdjax import predict  # jax and transformers are loaded when they are used

  return predict.load(dir_or_id, **options)
