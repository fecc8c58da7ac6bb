"""kdjax: distil a fine-tuned text encoder into a small fast one, in JAX, on any device mesh."""

__version__ = '0.1.0'
