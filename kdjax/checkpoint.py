"""Checkpoints through Orbax: the last states to go on from, the best parameters to keep."""

import hashlib
import json
import pathlib
import time
from typing import Any

import jax
import orbax.checkpoint as ocp

from kdjax import hosts, log, report

RETRIES = 5  # after a save that failed: a full disk may be emptied, a lost mount come back
WAIT = 30.0  # seconds between them


class Store:
  """One directory of checkpoints, the newest `keep` of them.

  Written beside the training, in a temporary directory that is renamed: a killed save leaves no
  step that is broken. Every file's SHA-256 is kept and compared before a step is read again: what
  is damaged is set aside under `<step>.damaged`, and the step before it is used.

  Of several hosts each writes what its devices hold, into one directory that all of them see; sums
  are the first one's, which sets aside before the others look.
  """

  def __init__(self, directory: pathlib.Path, keep: int = 1):
    self._directory = directory.absolute()
    self._keep = keep
    self._unsummed = None
    if hosts.first():
      _set_aside(self._directory)
    hosts.meet()
    self._open()

  def _open(self) -> None:
    self._manager = ocp.CheckpointManager(
      self._directory,
      item_handlers=dict(state=ocp.StandardCheckpointHandler(), meta=ocp.JsonCheckpointHandler()),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=self._keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
      ),
    )

  def step(self) -> int | None:
    """The newest saved step; all hosts ask together."""
    return hosts.agree(self._manager.latest_step)

  def save(self, step: int, state: Any, meta: dict[str, Any], wait: bool = False) -> None:
    """Save arrays and a json-able dict, in place of an older checkpoint of the same step.

    Without `wait` it returns before all is on disk, and the next call learns how that went. What
    failed is said, and tried again with the state of this call, which is in memory meanwhile. Not
    on several hosts: one that fails leaves the others within the save, where they cannot begin
    anew, so it ends, and they with it.

    Raises:
      OSError: no attempt of RETRIES succeeded.
    """
    retries = 0 if hosts.several() else RETRIES
    for attempt in range(retries + 1):
      late = step if self._unsummed is None else self._unsummed  # whose failure is learned first
      try:
        self.wait()
        late = step
        self._save(step, state, meta)
        if wait or attempt:  # once burnt, to the end
          self.wait()
        return
      # Orbax and TensorStore have no kind of their own for a disk that fails.
      except (OSError, RuntimeError, ValueError) as error:
        said = f'{self._directory}: checkpoint of step {late} was not written: {_first(error)}'
        if attempt == retries:
          raise OSError(f'{said}. Make room there, and start the same command again') from error
        log.logger.error(f'{said}. The state is in memory; next attempt in {WAIT:.0f} s')
        time.sleep(WAIT)
        self._manager.close()
        self._open()

  def _save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
    if step in self._manager.all_steps():
      self._manager.delete(step)
    # As it is now: it is written beside the training, which goes on changing it.
    meta = json.loads(json.dumps(meta))
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
    if not self._manager.save(step, args=items, force=True):
      raise RuntimeError(f'Orbax declined it: step {self._manager.latest_step()} is there')
    self._unsummed = step

  def wait(self) -> None:
    """Until what was saved is on disk, with its sums."""
    step, self._unsummed = self._unsummed, None
    self._manager.wait_until_finished()
    self._manager.check_for_errors()
    if step is not None and hosts.first():
      _write_sums(self._directory, step)

  def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
    """The newest checkpoint, laid out and typed as `like` (arrays with shardings).

    Raises:
      ValueError: the stored shapes or dtypes are others (Orbax would cast silently).
    """
    self.wait()
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
        f'checkpoint of step {step} in {self._directory} does not fit this run: {len(differ)} '
        f'arrays differ, first {differ[0]}: stored {there.get(differ[0])}, wanted '
        f'{want.get(differ[0])}'
      )
    items = ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
    )
    restored = self._manager.restore(step, args=items)
    return restored['state'], restored['meta']

  def drop_after(self, step: int) -> None:
    """Delete what is newer: a killed run may have kept a best that its last state never saw."""
    self.wait()
    for newer in [s for s in self._manager.all_steps() if s > step]:
      self._manager.delete(newer)

  def close(self) -> None:
    """Wait for what is being written; release what Orbax holds."""
    self.wait()
    self._manager.close()


def _sums_file(directory: pathlib.Path, step: int) -> pathlib.Path:
  return directory / f'sums.{step}.json'


def _sums(folder: pathlib.Path) -> dict[str, str]:
  """File -> SHA-256, of all under a folder."""
  found = {}
  for path in sorted(p for p in folder.rglob('*') if p.is_file()):
    with path.open('rb') as file:
      found[str(path.relative_to(folder))] = hashlib.file_digest(file, 'sha256').hexdigest()
  return found


def _write_sums(directory: pathlib.Path, step: int) -> None:
  if not (directory / str(step)).is_dir():
    return
  report.write_json(_sums_file(directory, step), _sums(directory / str(step)))
  for old in directory.glob('sums.*.json'):
    if not (directory / old.name.split('.')[1]).is_dir():
      old.unlink(missing_ok=True)


def _set_aside(directory: pathlib.Path) -> None:
  """Rename damaged checkpoints, newest first, down to one that is whole."""
  steps = sorted((int(p.name) for p in directory.glob('[0-9]*') if p.name.isdigit()), reverse=True)
  for step in steps:
    folder, said = directory / str(step), ''
    try:
      wanted = json.loads(_sums_file(directory, step).read_text(encoding='utf8'))
      found = _sums(folder)
      wrong = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
      said = ', '.join(wrong[:3])
    except FileNotFoundError:
      return  # killed between the step and its sums: it was renamed, so it is complete
    except (ValueError, AttributeError) as error:
      said = f'{_sums_file(directory, step).name}: {error}'
    if not said:
      return
    aside = directory / f'{step}.damaged'
    n = 1
    while aside.exists():
      n += 1
      aside = directory / f'{step}.damaged{n}'
    folder.rename(aside)
    log.logger.warning(
      f'{folder} is damaged ({said}): it is now {aside.name}, and an older checkpoint is used'
    )


def _first(error: Exception) -> str:
  return f'{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ""}'


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
