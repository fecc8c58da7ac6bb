"""The encoder of each family: which class, with random weights or with none."""

import jax
from flax import nnx

from kdjax.models import albert, bert, deberta, families, modernbert

OTHERS = {
  'albert': albert.Encoder,
  'modernbert': modernbert.Encoder,
  'deberta-v2': deberta.Encoder,
}


def kind(spec: families.Spec) -> type[bert.Encoder]:
  """The class that builds a spec."""
  return OTHERS.get(spec.family, bert.Encoder)


def build(spec: families.Spec, key: jax.Array) -> bert.Encoder:
  """An encoder with random weights."""
  return kind(spec)(spec, key)


def abstract(spec: families.Spec) -> bert.Encoder:
  """An encoder of shapes without numbers, to be filled from weights by net.fill."""
  return nnx.eval_shape(lambda: build(spec, jax.random.key(0)))
