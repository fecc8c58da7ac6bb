"""The device mesh, the one table of rules, and where arrays lie by them.

Axes: data, rows of a batch; fsdp, rows too, and parameters with all that mirrors them; tensor, the
inside of attention and feed-forward. A batch is split over data and fsdp together: devices that
hold different parts of the parameters also work on different rows. Many seeds of a run split off a
fourth axis, seed, from data; what each seed has of its own is then named seeds/..., and its first
axis is that of the seeds.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXES = ('data', 'fsdp', 'tensor')
ROWS = ('data', 'fsdp')
BOTH = ('fsdp', 'tensor')
ROLES = ('teacher', 'student', 'generator')

# The end of a parameter's path -> where its last axes are split; the first that fits. Optimizer
# states and gradients mirror the parameters, paths included. What fits none is whole: vectors, and
# tables of positions and types (2 MB of 1.4 GB). The word table is split by width: 50,265 or
# 30,522 words divide by no mesh, and its rows could be padded only in the model and its files.
RULES = (
  ('bank', (ROWS, None)),
  ('word/table', (None, BOTH)),
  ('(query|key|value|up|gate)/kernel', ('fsdp', 'tensor')),
  ('(query|key|value|up|gate)/bias', ('tensor',)),
  ('(mix|down)/kernel', ('tensor', 'fsdp')),
  ('kernel', ('fsdp', None)),
)


class Mesh(NamedTuple):
  """Devices along the axes, and the roles that lie whole on each of them."""

  devices: jax.sharding.Mesh
  whole: tuple[str, ...] = ()

  @property
  def rows(self) -> int:
    """Parts that the rows of a batch are split into."""
    return math.prod(self.devices.shape[axis] for axis in ROWS)

  def __str__(self) -> str:
    sizes = ' x '.join(f'{axis} {size}' for axis, size in self.devices.shape.items())
    return f'{sizes} = {self.devices.size} x {self.devices.devices.flat[0].device_kind}'


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, whole: str = '') -> Mesh:
  """A mesh of the first data x fsdp x tensor devices; data=-1 takes all that are left.

  whole: of teacher, student, generator, by commas: who is not split.

  Raises:
    ValueError: that many devices there are not, or no such role.
  """
  devices = jax.devices()
  have, inner = len(devices), fsdp * tensor
  for axis, size in dict(fsdp=fsdp, tensor=tensor, data=1 if data == -1 else data).items():
    if size < 1:
      raise ValueError(f'config.mesh.{axis}={size}: at least 1{", or -1" * (axis == "data")}')
  if data == -1:
    if have % inner:
      raise ValueError(
        f'config.mesh: fsdp={fsdp} x tensor={tensor} does not divide {have} devices: set '
        'config.mesh.data too, to use some of them'
      )
    data = have // inner
  if data * inner > have:
    raise ValueError(
      f'config.mesh: data={data} x fsdp={fsdp} x tensor={tensor} = {data * inner} devices, but '
      f'there are {have} devices'
    )
  if {d.process_index for d in devices[: data * inner]} != {d.process_index for d in devices}:
    raise ValueError(
      f'config.mesh: data={data} x fsdp={fsdp} x tensor={tensor} = {data * inner} of {have} devices'
      f' leaves a process without any: take more devices, or start fewer than '
      f'{jax.process_count()} processes'
    )
  names = tuple(name.strip() for name in whole.split(',') if name.strip())
  if not set(names) <= set(ROLES):
    raise ValueError(f'config.mesh.whole={whole!r} names others than {", ".join(ROLES)}')
  # Auto axes: jax.make_mesh defaults to Explicit ones, under which lookups need annotations.
  sizes, kinds = (data, fsdp, tensor), (AxisType.Auto,) * 3
  return Mesh(jax.make_mesh(sizes, AXES, kinds, devices=devices[: data * inner]), names)


def for_seeds(mesh: Mesh, seeds: int) -> Mesh:
  """The same devices for so many seeds: as many groups as divide both them and the data axis.

  Each group takes its share of the seeds: no gradient goes from one to another.
  """
  if seeds == 1:
    return mesh
  devices = mesh.devices.devices
  groups = math.gcd(seeds, len(devices))
  devices = devices.reshape(groups, -1, *devices.shape[1:])
  kinds = (AxisType.Auto,) * devices.ndim
  return mesh._replace(devices=jax.sharding.Mesh(devices, ('seed', *AXES), axis_types=kinds))


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh.devices, PartitionSpec())


def rows(mesh: Mesh, many: bool = False, steps: bool = False) -> NamedSharding:
  """The first axis split as the rows of a batch.

  many: after an axis of the seeds. steps: after an axis of steps, before all others.
  """
  return NamedSharding(mesh.devices, PartitionSpec(*[None] * steps, *['seed'] * many, ROWS))


def lay(tree: Any, mesh: Mesh) -> Any:
  """Shardings by the rules, of parameters by name of role, or of what mirrors them."""
  found = functools.partial(_found, mesh=mesh)
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: NamedSharding(mesh.devices, found(_name(path), leaf.shape)[0]), tree
  )


def _found(path: str, shape: tuple[int, ...], mesh: Mesh) -> tuple[PartitionSpec, bool]:
  """(where an array lies, whether a rule's axis was left out since a size does not divide)."""
  if path.startswith('seeds/'):
    spec, left = _found(path.removeprefix('seeds/'), shape[1:], mesh)
    return PartitionSpec('seed', *spec), left
  for end, axes in RULES:
    if re.search(f'(^|/)({end})$', path) and len(shape) >= len(axes):
      break
  else:
    return PartitionSpec(), False
  if end != 'bank' and set(path.split('/')) & set(mesh.whole):
    return PartitionSpec(), False
  axes = (None,) * (len(shape) - len(axes)) + axes
  spec, left = [], False
  for size, wanted in zip(shape, axes, strict=True):
    taken, parts = (), 1
    for axis in (wanted,) if isinstance(wanted, str) else wanted or ():
      n = mesh.devices.shape[axis]
      fits = size % (parts * n) == 0
      left |= not fits
      if fits and n > 1:
        taken, parts = (*taken, axis), parts * n
    spec.append(taken if len(taken) > 1 else taken[0] if taken else None)
  while spec and spec[-1] is None:
    spec.pop()
  return PartitionSpec(*spec), left


def _name(path) -> str:
  fields = ('key', 'name', 'idx')
  return '/'.join(str(next(getattr(key, f) for f in fields if hasattr(key, f))) for key in path)


def table(groups: dict[str, Any], mesh: Mesh, learner: str = 'student') -> str:
  """Where everything lies, for a reader: by group and rule, the bytes in all and on one device.

  learner: the run; where it is a role, it is what the run's 'student' is called here.
  """
  lines, odd, total = [('', 'split over', 'arrays', 'bytes', 'on a device')], [], [0, 0]
  for group, tree in groups.items():
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path({group: tree}):
      name = _name(path)
      spec, left = _found(name, leaf.shape, mesh)
      size = math.prod(leaf.shape) * leaf.dtype.itemsize
      part = math.prod(NamedSharding(mesh.devices, spec).shard_shape(leaf.shape))
      row = found.setdefault(spec, [0, 0, 0])
      for i, n in enumerate((1, size, part * leaf.dtype.itemsize)):
        row[i] += n
      odd += [f'{name} {list(leaf.shape)}'] * left
    if learner in ROLES:
      group = group.replace('student', learner)
    for spec, (n, size, part) in sorted(found.items(), key=lambda row: -row[1][1]):
      total = [total[0] + size, total[1] + part]
      lines.append((group, _shown(spec), str(n), _bytes(size), _bytes(part)))
      group = ''
  lines.append(('all', '', '', *map(_bytes, total)))
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = [f'devices: {mesh}']
  for group, spec, *numbers in lines:
    cells = [f'{group:<{widths[0]}}', f'{spec:<{widths[1]}}']
    cells += [f'{v:>{w}}' for v, w in zip(numbers, widths[2:], strict=True)]
    text.append('  ' + '  '.join(cells))
  if odd:
    more = f' and {len(odd) - 3} more' if len(odd) > 3 else ''
    text.append(f'  a size that an axis does not divide is whole on it: {", ".join(odd[:3])}{more}')
  return '\n'.join(text)


def held(tree: Any, mesh: Mesh) -> int:
  """Bytes of it on one device."""
  pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(lay(tree, mesh)), strict=True)
  return sum(math.prod(at.shard_shape(x.shape)) * x.dtype.itemsize for x, at in pairs)


def _shown(spec: PartitionSpec) -> str:
  parts = ['+'.join((p,) if isinstance(p, str) else p or ('-',)) for p in spec]
  return f'[{", ".join(parts)}]' if parts else 'nothing: whole'


def _bytes(n: int) -> str:
  return f'{n / 1e9:.2f} GB' if n >= 1e9 else f'{n / 1e6:.2f} MB' if n >= 1e4 else f'{n} B'


def check_batch(mesh: Mesh, batch_size: int, accumulate: int, field: str) -> None:
  """ValueError unless the batch splits evenly over devices and accumulation."""
  parts = mesh.rows * accumulate
  if batch_size % parts:
    data, fsdp = (mesh.devices.shape[axis] for axis in ROWS)
    if 'seed' in mesh.devices.shape:
      groups = mesh.devices.shape['seed']
      data = f'{data * groups}/{groups} groups of seeds'
    raise ValueError(
      f'config.{field}={batch_size} does not split over {mesh.rows} devices (mesh.data={data} x '
      f'mesh.fsdp={fsdp}) x {accumulate} accumulated parts: make it a multiple of {parts}'
    )


def own(mesh: Mesh, n: int) -> np.ndarray | slice:
  """Which rows of a batch of n this process builds: those that its devices hold, in order."""
  at = rows(mesh)
  if at.is_fully_addressable:
    return slice(None)
  held = np.zeros(n, bool)
  for (part,) in at.addressable_devices_indices_map((n,)).values():
    held[part] = True
  return np.flatnonzero(held)


def put(
  batch: dict[str, np.ndarray], mesh: Mesh, many: bool = False, steps: bool = False
) -> dict[str, jax.Array]:
  """A host batch onto the mesh, split by rows; many: one of each seed, stacked.

  steps: batches of several steps, stacked. Of several hosts each has `own` rows alone, but for
  `index`, which names the rows of all; and the stacks of seeds whole.
  """
  at = rows(mesh, many, steps)
  if at.is_fully_addressable:
    return jax.device_put(batch, at)
  if many:
    return move(batch, dict.fromkeys(batch, at))
  axis = int(steps)
  n = batch['index'].shape[axis]
  here = own(mesh, n)

  def split(x):
    def part(where):
      wanted = np.arange(n)[where[axis]]
      return x.take(wanted if x.shape[axis] == n else np.searchsorted(here, wanted), axis)

    shape = (*x.shape[:axis], n, *x.shape[axis + 1 :])
    return jax.make_array_from_callback(shape, at, part)

  return jax.tree.map(split, batch)


def place(tree: Any, mesh: Mesh) -> Any:
  """Parameters by name of role, or what mirrors them, onto the mesh by the rules."""
  return move(tree, lay(tree, mesh))


def move(tree: Any, shardings: Any) -> Any:
  """Arrays to where they are to lie.

  Of several hosts each has all of a tree's arrays, the same ones, and hands its own devices their
  parts. (jax.device_put would first send them all around, to compare them.)
  """

  def one(x, at):
    if at.is_fully_addressable or isinstance(x, jax.core.Tracer) or not _here(x):
      return jax.device_put(x, at)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, at, lambda where: x[where])

  if jax.process_count() == 1:
    return jax.device_put(tree, shardings)
  return jax.tree.map(one, tree, shardings)


def whole(tree: Any) -> Any:
  """Arrays that can be read here, parts on other hosts' devices too; all hosts ask together."""
  return jax.tree.map(
    lambda x: x if _here(x) else multihost_utils.process_allgather(x, tiled=True), tree
  )


def _here(x: Any) -> bool:
  return not isinstance(x, jax.Array) or x.is_fully_addressable


def fetched(mesh: Mesh) -> NamedSharding:
  """How rows are left that every host is going to read: split, or on each where there are more."""
  at = rows(mesh)
  return at if at.is_fully_addressable else replicated(mesh)


def learner(mesh: Mesh, name: str) -> Mesh:
  """The mesh of a run whose 'student', as every run calls what it trains, has this role."""
  if name not in ROLES:
    return mesh
  return mesh._replace(whole=('student',) if name in mesh.whole else ())


def under(mesh: Mesh, function: Callable) -> Callable:
  """The function, traced where `constrain` knows of the mesh."""

  @functools.wraps(function)
  def traced(*args):
    with jax.sharding.use_abstract_mesh(mesh.devices.abstract_mesh):
      return function(*args)

  return traced


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
  """An intermediate array laid out so, under a mesh; the same array where there is none."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))
