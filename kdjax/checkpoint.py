"""Checkpoints through Orbax: the last state to go on from, the best parameters to keep."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp


class Store:
  """One directory of checkpoints, the newest kept.

  A killed save leaves a temporary directory, never a broken step; the next opening removes it.
  """

  def __init__(self, directory: pathlib.Path):
    self._manager = ocp.CheckpointManager(
      directory.absolute(),
      item_handlers=dict(state=ocp.StandardCheckpointHandler(), meta=ocp.JsonCheckpointHandler()),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=1, cleanup_tmp_directories=True, enable_async_checkpointing=False
      ),
    )

  def step(self) -> int | None:
    """The newest saved step."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
    """Save arrays and a json-able dict.

    Raises:
      RuntimeError: Orbax declined, which it does silently for a step that is not the newest.
    """
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
    if not self._manager.save(step, args=items, force=True):
      raise RuntimeError(f'checkpoint of step {step} was not written: {self.step()} is there')

  def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
    """The newest checkpoint, laid out and typed as `like` (arrays with shardings).

    Raises:
      ValueError: the stored shapes or dtypes are others (Orbax would cast silently).
    """
    step = self.step()
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    stored = self._manager.item_metadata(step)['state']
    there = _shapes(getattr(stored, 'tree', stored))
    want = _shapes(abstract)
    if there != want:
      differ = sorted(k for k in there.keys() | want.keys() if there.get(k) != want.get(k))
      raise ValueError(
        f'checkpoint of step {step} does not fit this run: {len(differ)} arrays differ, '
        f'first {differ[0]}: stored {there.get(differ[0])}, wanted {want.get(differ[0])}'
      )
    items = ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
    )
    restored = self._manager.restore(step, args=items)
    return restored['state'], restored['meta']

  def drop_after(self, step: int) -> None:
    """Delete what is newer: a killed run may have kept a best that its last state never saw."""
    for newer in [s for s in self._manager.all_steps() if s > step]:
      self._manager.delete(newer)

  def close(self) -> None:
    """Release what Orbax holds."""
    self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda x: hasattr(x, 'shape') and hasattr(x, 'dtype')
  )
  # Orbax stores named tuples and lists as dicts: paths compare by their names alone.
  return {
    '/'.join(_name(k) for k in path): (tuple(x.shape), str(x.dtype))
    for path, x in leaves
    if hasattr(x, 'shape')
  }


def _name(key: Any) -> str:
  for field in ('key', 'name', 'idx'):
    if hasattr(key, field):
      return str(getattr(key, field))
  return str(key)
