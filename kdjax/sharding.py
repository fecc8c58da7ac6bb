"""The device mesh and where arrays lie on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(data: int = -1) -> Mesh:
  """A mesh with one axis, 'data': -1 takes every device.

  Auto axes: jax.make_mesh defaults to Explicit ones, under which table lookups need annotations.
  """
  devices = jax.devices()
  data = len(devices) if data == -1 else data
  if not 1 <= data <= len(devices):
    raise ValueError(f'mesh.data={data}, but there are {len(devices)} devices')
  return jax.make_mesh((data,), ('data',), axis_types=(AxisType.Auto,), devices=devices[:data])


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
  """The first axis split over the data axis."""
  return NamedSharding(mesh, PartitionSpec('data'))


def banks(state, mesh: Mesh):
  """Shardings of a training state: what is named 'bank' is split by rows, the rest is whole.

  A bank whose rows do not divide over the devices stays whole.
  """

  def lay(path, leaf):
    named = any(getattr(key, 'key', None) == 'bank' for key in path)
    return rows(mesh) if named and leaf.shape[0] % mesh.shape['data'] == 0 else replicated(mesh)

  return jax.tree_util.tree_map_with_path(lay, state)


def check_batch(mesh: Mesh, batch_size: int, accumulate: int, field: str) -> None:
  """ValueError unless the batch splits evenly over devices and accumulation."""
  parts = mesh.shape['data'] * accumulate
  if batch_size % parts:
    raise ValueError(
      f'{field}={batch_size} does not split over {mesh.shape["data"]} devices x {accumulate} '
      f'accumulated parts: make it a multiple of {parts}'
    )


def put(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """A host batch onto the mesh, split by rows."""
  return jax.device_put(batch, rows(mesh))


def everywhere(params, mesh: Mesh):
  """Parameters onto every device of the mesh."""
  return jax.device_put(params, replicated(mesh))
