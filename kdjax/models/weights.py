"""Weights on disk: safetensors files under transformers' names <-> our nested parameters.

Format: https://huggingface.co/docs/safetensors (one model.safetensors, or shards listed in
model.safetensors.index.json). Pickled .bin files are not opened: loading one can run code.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx, traverse_util

from kdjax import quote
from kdjax.models import bert, encoders, families, tables

FILE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
_BIN = 'pytorch_model*.bin'
_REMEDY = """convert it once, in an environment with torch, and name the new folder:
  from transformers import {kind}, AutoTokenizer
  for each in ({kind}, AutoTokenizer):
    each.from_pretrained({name!r}).save_pretrained('converted')"""
_KINDS = dict(classify='AutoModelForSequenceClassification', mlm='AutoModelForMaskedLM')
_CLASSIFIERS = ('classifier.', 'pre_classifier.')  # of a head that is to be replaced
_FLOATS = ('F64', 'F32', 'F16', 'BF16')
_SHARD = re.compile(r'[\w.-]+\.safetensors')
_JSON = 64 << 20  # bytes of a config or an index
_SHOWN = 40  # names listed of each kind of complaint


class Weights(NamedTuple):
  """params: nested dicts of f32 arrays; fresh: paths that the checkpoint did not have."""

  params: dict[str, Any]
  fresh: tuple[str, ...]


def flat(module: nnx.Module) -> dict[str, Any]:
  """A module's parameters by path: 'layers/0/query/kernel'."""
  return traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(module, nnx.Param)), sep='/')


def json_object(path: Path) -> dict[str, Any]:
  """The object that a JSON file holds; ValueError, naming the file, where there is none."""
  try:
    if path.stat().st_size > _JSON:
      raise ValueError(f'{path.stat().st_size} bytes; up to {_JSON} are read')
    found = json.loads(path.read_text('utf8'))
    if not isinstance(found, dict):
      raise ValueError(f'a {type(found).__name__}, not an object of fields')
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path}: not JSON, or not what it should be: {quote.error(error)}') from error
  return found


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
  """A safetensors file, the errors of which name it."""
  try:
    with safetensors.safe_open(path, 'np') as file:
      yield file
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f'{path}: damaged, or no safetensors file: {quote.error(error)}') from error


def tensor(file: Any, path: Path, name: str) -> np.ndarray:
  """f32 array of an open file; ValueError unless it is of floats, and all of them finite."""
  kind = file.get_slice(name).get_dtype()
  if kind not in _FLOATS:
    raise ValueError(f'{path}: {name} is {kind}; weights are one of {", ".join(_FLOATS)}')
  with np.errstate(over='ignore'):  # said below
    array = file.get_tensor(name).astype(np.float32)
  if not np.isfinite(array).all():
    raise ValueError(f'{path}: {name} has values that are not finite')
  return array


def stored(
  folder: Path, head: str = 'classify', name: str = ''
) -> dict[str, tuple[Path, tuple[int, ...]]]:
  """Name of every tensor in a folder -> (the file that holds it, its shape).

  head, name: 'classify' or 'mlm', and the hub id, or folder, for an error to say.

  Raises ValueError for a checkpoint without safetensors, and for an index that leaves the folder.
  """
  folder = Path(folder)
  if (folder / FILE).is_file():
    shards = [folder / FILE]
  elif (folder / INDEX).is_file():
    listed = json_object(folder / INDEX).get('weight_map')
    if not isinstance(listed, dict) or not listed:
      raise ValueError(f'{folder / INDEX}: weight_map is {quote.value(listed)}')
    bad = [n for n in listed.values() if not isinstance(n, str) or not _SHARD.fullmatch(n)]
    if bad:
      raise ValueError(
        f'{folder / INDEX} names files that are not its own shards: {quote.names(bad)}'
      )
    shards = [folder / n for n in sorted(set(listed.values()))]
    absent = [s.name for s in shards if not s.is_file()]
    if absent:
      raise ValueError(f'{folder} lacks {len(absent)} of {len(shards)} shards: {absent}')
  else:
    pickled = sorted(p.name for p in folder.glob(_BIN))
    raise ValueError(
      f'{folder} has no {FILE}' + (f', only {pickled}' if pickled else '') + '. '
      'If all it has is .bin (pickled) weights, '
      + _REMEDY.format(kind=_KINDS[head], name=name or str(folder))
    )
  found = {}
  for shard in shards:
    with opened(shard) as f:
      here = {name: (shard, tuple(f.get_slice(name).get_shape())) for name in f.keys()}  # noqa: SIM118
    twice = sorted(here.keys() & found.keys())
    if twice:
      raise ValueError(f'{shard}: other shards have {quote.names(twice)} too')
    found |= here
  return found


def read(
  folder: Path,
  spec: families.Spec,
  seed: int = 0,
  *,
  num_labels: int | None = None,
  fresh_head: bool = False,
  name: str = '',
) -> Weights:
  """The parameters of an Encoder of this spec from a folder, as float32.

  A head that the checkpoint lacks is drawn from the seed, as Encoder(spec, key(seed)) draws it;
  fresh_head draws it whatever the checkpoint has. num_labels: what the caller asked for, if
  anything. name: hub id of the folder, for errors. Raises one ValueError with all missing,
  unexpected and misshaped names.
  """
  family = families.get(spec.family)
  have = {}
  for own, place in stored(folder, spec.head, name).items():
    bare_name = _bare(own, family)
    if bare_name in have:
      raise ValueError(f'{place[0]}: {have[bare_name][0]} and {own} are the same weight')
    have[bare_name] = own, *place
  want = flat(encoders.abstract(spec))
  full = {path: families.weight(spec.family, spec.head, path) for path in want}
  bare = {path: _bare(place.name, family) for path, place in full.items()}

  head = [path for path in want if path.startswith('head/')]
  # BERT's pooler belongs to the pretrained encoder, under its prefix: kept where it is there.
  own = [
    path for path in head if not full[path].name.startswith((family.prefix + '.', *family.kept))
  ]
  pooler = [path for path in head if path not in own]
  out = have.get(bare.get('head/out/kernel'))
  if num_labels is not None and out and out[2][0] != num_labels and not fresh_head:
    raise ValueError(
      f'{folder} has a head of {out[2][0]} labels, asked for {num_labels}: '
      'drop num_labels to keep it, or pass fresh_head=True to start a new head (of a teacher: '
      'config.teacher.finetune=True, or config.task.labels of its own classes)'
    )
  fresh = []
  if fresh_head or not any(bare[path] in have for path in own):
    fresh = own + (pooler if not any(bare[path] in have for path in pooler) else [])

  missing, misshaped = [], []
  for path, leaf in want.items():
    if path in fresh:
      continue
    place = full[path]
    first, *rest = leaf.shape[::-1] if place.transposed else leaf.shape
    shape = (place.parts * first, *rest)
    if place.part:
      continue  # said of the first one
    if bare[path] not in have:
      missing.append(place.name)
    elif have[bare[path]][2] != shape:
      misshaped.append(f'{have[bare[path]][0]} {have[bare[path]][2]}, expected {shape}')
  ignored = family.extras[spec.head] + (_CLASSIFIERS if fresh_head else ())
  known = set(bare.values())
  unexpected = [
    name for b, (name, *_) in have.items() if b not in known and not b.startswith(ignored)
  ]
  complaints = [
    f'{len(found)} {kind}: ' + ', '.join(sorted(found)[:_SHOWN]) + ', ...' * (len(found) > _SHOWN)
    for kind, found in (
      ('missing', missing),
      ('unexpected', unexpected),
      ('misshaped', misshaped),
    )
    if found
  ]
  if complaints:
    raise ValueError(
      f'{folder} does not hold the weights of its config ({spec.family}, {spec.layers} layers of '
      f'{spec.width}, head {spec.head!r}): ' + '; '.join(complaints)
    )

  params, by_file = {}, {}
  for path in want:
    if path not in fresh:
      name, file, _ = have[bare[path]]
      by_file.setdefault(file, {}).setdefault(name, []).append(path)
  for file, names in by_file.items():
    with opened(file) as f:  # bfloat16 is a numpy dtype once jax is imported
      for name, paths in names.items():
        array = tensor(f, file, name)
        for path in paths:
          _, transposed, part, parts = full[path]
          piece = np.split(array, parts)[part] if parts > 1 else array
          params[path] = jnp.array(piece.T if transposed else piece)
  if fresh:
    k_head = jax.random.split(jax.random.key(seed), 3)[2]
    drawn = flat(encoders.kind(spec).make_head(spec, k_head))
    params |= {path: drawn[path.removeprefix('head/')] for path in fresh}
  return Weights(traverse_util.unflatten_dict(params, sep='/'), tuple(fresh))


def write(path: Path, module: bert.Encoder) -> None:
  """The module's parameters as one safetensors file under transformers' names."""
  spec, found = module.spec, {}
  for name, leaf in flat(module).items():
    place = families.weight(spec.family, spec.head, name)
    array = np.asarray(leaf, np.float32)
    found.setdefault(place.name, {})[place.part] = array.T if place.transposed else array
  tensors = {
    name: np.ascontiguousarray(
      parts[0] if len(parts) == 1 else np.concatenate([parts[i] for i in sorted(parts)])
    )
    for name, parts in found.items()
  }
  safetensors.numpy.save_file(tensors, path, metadata={'format': 'pt'})


def _bare(name: str, family: tables.Family) -> str:
  """A stored name without the encoder's prefix, old layer-norm names made new."""
  name = name.removeprefix(family.prefix + '.')
  for old, new in (('LayerNorm.gamma', 'LayerNorm.weight'), ('LayerNorm.beta', 'LayerNorm.bias')):
    name = name.removesuffix(old) + new if name.endswith(old) else name
  return name
