"""A model's folder on disk, replaced as a whole."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

# Files of a model, replaced as a whole: a leftover of the old model must not outlive it.
_OWN = (
  'config.json', 'README.md', 'model*.safetensors', 'model.safetensors.index.json',
  'pytorch_model*', '*.model', 'tokenizer*.json', 'special_tokens_map.json', 'added_tokens.json',
  'vocab.*', 'merges.txt',
)  # fmt: skip


@contextlib.contextmanager
def replacing(dir: str | Path) -> Iterator[tuple[Path, Path]]:
  """(target, a new folder), which takes the target's place at the end of the block.

  An existing model is replaced whole: all is written to a sibling first, and moved in place by
  renames, so that a killed save leaves the old model (or, between two renames, both under hidden
  sibling names). Files there that are no part of a model are kept.
  """
  target = Path(dir).expanduser().resolve()
  tag = uuid.uuid4().hex[:8]
  new = target.with_name(f'.{target.name}.new-{tag}')
  new.mkdir(parents=True)
  try:
    yield target, new
    _replace(target, new, target.with_name(f'.{target.name}.old-{tag}'))
  finally:
    shutil.rmtree(new, ignore_errors=True)


def _replace(target: Path, new: Path, old: Path) -> None:
  """Put new at target; what target held that is no part of a model moves along."""
  if not target.exists():
    new.rename(target)
    return
  target.rename(old)
  try:
    new.rename(target)
  except BaseException:
    old.rename(target)
    raise
  for path in old.iterdir():
    if not any(path.match(pattern) for pattern in _OWN) and not (target / path.name).exists():
      path.rename(target / path.name)
  shutil.rmtree(old)
