"""Which steps are played in one call, and how their batches come to the devices.

A data set that fits lies whole on every device: a call sends row numbers, and its batches are
gathered where they are used. Of a larger one a call sends the batches.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import sharding
from kdjax.data import batches


class Call(NamedTuple):
  """Steps of one player and one length, one after another in one program.

  index: i32[steps, B], or i32[steps, S, B] of many seeds: `index` of their batches, on the host.
  rows: as a program takes them: `index` alone of data on the devices, else whole batches; the
    first axis is that of the steps, filled up to steps_per_call.
  """

  player: str
  length: int
  index: np.ndarray
  rows: dict[str, jax.Array]


def lying(data: batches.Dataset) -> batches.Dataset:
  """A data set as it lies on a device: arrays alone; segments, which are 0 or 1, in bytes."""
  narrow = lambda ids: ids and ids._replace(segments=ids.segments.astype(np.uint8))  # noqa: E731
  return data._replace(
    tokens=narrow(data.tokens), teacher=narrow(data.teacher), group=None, block=None
  )


def fitting(data: batches.Dataset, resident: float) -> batches.Dataset | None:
  """Shapes of what is to lie on each device; None where they are more than `resident` GB."""
  shapes = jax.eval_shape(lying, data)
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
  return shapes if size <= resident * 1e9 else None


def place(data: batches.Dataset, mesh: sharding.Mesh) -> batches.Dataset:
  """The data set on every device of the mesh."""
  cut = lying(data)
  return sharding.move(cut, jax.tree.map(lambda x: sharding.replicated(mesh), cut))


def calls(
  plan: Iterator[tuple[int, np.ndarray]],
  begin: int,
  size: int,
  key: Callable[[int], tuple],
  data: batches.Dataset,
  here: bool,
  own: np.ndarray | slice,
  mesh: sharding.Mesh,
) -> Iterator[Call]:
  """The calls of a plan; each is made, and its rows sent, when it is asked for.

  Args:
    plan: (L, places in data) of the steps from `begin` on. key: of a step's number: its player,
      and whatever else no call goes across. size: most steps of a call.
    here: whether the data lie on the devices. own: as in batches.host.
  """

  def apart(numbered):
    number, (lengths, _) = numbered
    return int(np.max(lengths)), *key(number)  # of many seeds there is one for each

  for (length, player, *_), steps in itertools.groupby(enumerate(plan, begin), apart):
    while some := [places for _, (_, places) in itertools.islice(steps, size)]:
      places = np.stack(some).astype(np.int32)
      batch = dict(index=places) if here else batches.host(data, places, length, own)
      short = size - len(some)
      full = {
        k: np.concatenate([v, np.zeros((short, *v.shape[1:]), v.dtype)]) if short else v
        for k, v in batch.items()
      }
      rows = sharding.put(full, mesh, places.ndim == 3, True)
      yield Call(player, length, data.index[places], rows)


def program(
  step: Callable, size: int, mesh: sharding.Mesh, layout, frozen_layout, many: bool
) -> Callable:
  """Jitted (L, state, frozen, data, rows, steps, key) -> (state, metrics [size] of each name).

  Args:
    step: a jitted turn, train.make_step's; the rest is as there. L: length of the batches. data:
      as `place` leaves them, or None. rows: a Call's. steps: how many of them are to be played. It
      is no part of the program, or each number would be compiled.
  """

  def call(length, state, frozen, data, rows, steps, key):
    def batch(i):
      found = {k: v[i] for k, v in rows.items()}
      return batches.build(data, found['index'], length) if data else found

    def one(i, carry):
      state, log = carry
      state, metrics = step(state, frozen, batch(i), key)
      return state, {k: log[k].at[i].set(v) for k, v in metrics.items()}

    # Of the same arrays as in the loop, or the step would be traced twice.
    _, shapes = jax.eval_shape(lambda i: step(state, frozen, batch(i), key), jnp.int32(0))
    log = {k: jnp.zeros((size, *v.shape), v.dtype) for k, v in shapes.items()}
    # Of one step there is no loop left.
    return jax.lax.fori_loop(0, steps if size > 1 else 1, one, (state, log))

  same = sharding.replicated(mesh)
  inside, rows = layout or same, sharding.rows(mesh, many, steps=True)
  return jax.jit(
    call,
    static_argnums=0,
    in_shardings=(inside, frozen_layout or same, same, rows, same, same),
    out_shardings=(inside, same),
    donate_argnums=1,
  )


def rows(played: list[tuple[dict[str, jax.Array], int]]) -> list[dict[str, np.ndarray]]:
  """Metrics of each step, of (metrics, steps) of each call."""
  return [
    {k: v[i] for k, v in log.items()} for log, steps in jax.device_get(played) for i in range(steps)
  ]
