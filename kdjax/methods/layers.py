"""Intermediate layers: which ones, one vector of each, and heads that bring two models together.

Layer l is the output of block l, counted from 1; hidden[0], the embedding layer's, is layer 0 and
is never chosen by name.
"""

import jax
import jax.numpy as jnp

Array = jax.Array

POOLS = ('first', 'mean')
SPECS = ('all', 'odd', 'every', 'skip', 'last')


def choose(spec: str, blocks: int, count: int = 0, field: str = 'layers') -> tuple[int, ...]:
  """Layers of a model of this many blocks, in order, by a config's word.

  'all': 1 to N. 'odd': 1, 3, 5, ... 'every': of m layers the i-th is floor(i N / m), the last among
  them, as config.student.pick has it. 'skip': of m layers the i-th is floor(i N / (m + 1)), evenly
  spaced below the last. 'last': the m layers before the last. Both as in PKD, which leaves the last
  layer to the logits: N = 12 and m = 5 are 2, 4, .., 10 and 7, .., 11. Or numbers: '2,4,6'.

  Args:
    count: m, at most N; 0: as of a student of half the blocks, N // 2 - 1 below its last, and at
      least 1.
    field: of config.method, for the error.
  """
  if spec == 'all':
    return tuple(range(1, blocks + 1))
  if spec == 'odd':
    return tuple(range(1, blocks + 1, 2))
  if spec == 'every':
    count = count or max(blocks // 2, 1)
    return tuple(i * blocks // count for i in range(1, count + 1))
  if spec in ('skip', 'last'):
    count = count or max(blocks // 2 - 1, 1)
    if count > max(blocks - 1, 1):
      raise ValueError(
        f'config.method.{field}={spec!r}: {count} layers below the last of {blocks} there are not'
      )
    if blocks == 1:  # nothing is below the last
      return (1,)
    if spec == 'last':
      return tuple(range(blocks - count, blocks))
    return tuple(i * blocks // (count + 1) for i in range(1, count + 1))
  parts = [part.strip() for part in str(spec).split(',')]
  if not all(part.isdecimal() for part in parts):
    raise ValueError(
      f'config.method.{field}={spec!r} is none of {", ".join(SPECS)}, nor numbers like 2,4,6'
    )
  numbers = tuple(int(part) for part in parts)
  if not all(1 <= l <= blocks for l in numbers) or len(set(numbers)) < len(numbers):
    raise ValueError(
      f'config.method.{field}={spec!r}: distinct numbers from 1 to {blocks}, the blocks there are'
    )
  return numbers


def states(net, batch, hidden_NBLD: Array, pool: str) -> Array:
  """f32[N, B, D], a vector of each layer given: of the first token, or the mean of real ones."""
  if pool == 'first' or hidden_NBLD.shape[2] == 1:  # a text of one token, or pooled (net.answer)
    return hidden_NBLD[:, :, 0].astype(jnp.float32)
  real_1BL1 = net.mask(batch)[None, :, :, None]
  # Chosen, not multiplied: padding may hold anything.
  total_NBD = jnp.where(real_1BL1, hidden_NBLD.astype(jnp.float32), 0).sum(2)
  return total_NBD / jnp.maximum(real_1BL1.sum(2), 1)


def pooled(net, batch, hidden_NBLD: Array, chosen: tuple[int, ...], pool: str) -> Array:
  """f32[B, len(chosen) * D]: the vectors of the chosen layers, one after another."""
  states_NBD = states(net, batch, jnp.stack([hidden_NBLD[l] for l in chosen]), pool)
  return jnp.concatenate(list(states_NBD), axis=-1)


def sizes(net, params) -> tuple[int, int]:
  """(blocks N, width D) of a model; nothing is computed."""
  hidden = jax.eval_shape(lambda params, batch: net(params, batch).hidden, params, net.dummy())
  return hidden.shape[0] - 1, hidden.shape[-1]


def check_depths(name: str, student: int, teacher: int) -> None:
  """ValueError where the student has more blocks than the teacher: each follows one of those."""
  if student > teacher:
    raise ValueError(
      f'{name}: the student has {student} blocks, the teacher {teacher}: set config.student.layers '
      f'to {teacher} or less'
    )


def head(key, ins: int, outs: int) -> dict[str, Array]:
  """A linear layer in float32, kernel [ins, outs] and bias uniform as PyTorch begins its own."""
  k_kernel, k_bias = jax.random.split(key)
  r = ins**-0.5
  return dict(
    kernel=jax.random.uniform(k_kernel, (ins, outs), jnp.float32, -r, r),
    bias=jax.random.uniform(k_bias, (outs,), jnp.float32, -r, r),
  )


def project(head: dict[str, Array], x: Array) -> Array:
  """[B, ins] -> f32[B, outs]."""
  out = jnp.matmul(x.astype(jnp.float32), head['kernel'], precision='highest')
  return out + head['bias'][None]


def distance(a_BE: Array, b_BE: Array) -> Array:
  """f32[B], L2, with 0 as its gradient where two rows are equal."""
  square_B = jnp.square(a_BE - b_BE).sum(-1)
  same_B = square_B == 0
  return jnp.where(same_B, 0.0, jnp.sqrt(jnp.where(same_B, 1.0, square_B)))
