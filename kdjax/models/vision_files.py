"""Models of images on disk: config.json and model.safetensors, of this project's own making."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from kdjax import net, quote
from kdjax.models import folders, vision, weights

TYPE = 'kdjax_image'
_LARGEST = 1 << 31  # parameters; a config.json that asks for more is refused, not built


@dataclasses.dataclass
class Config:
  """What config.json says. Fields that a text model's config has go by the same names.

  architecture: as vision.architecture reads it. shape: [H, W, C]. mean, std: by channel, of pixels
  in [0, 1]. id2label: names of the classes.
  """

  architecture: str
  shape: tuple[int, ...]
  num_labels: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  id2label: dict[int, str]
  problem_type: str | None = None
  model_type: str = TYPE

  @property
  def num_hidden_layers(self) -> int:
    """Blocks."""
    return len(vision.architecture(self.architecture)[1])

  @property
  def hidden_size(self) -> int:
    """The greatest width."""
    return max(vision.architecture(self.architecture)[1])

  def spec(self, dtype: str = 'float32') -> vision.Spec:
    """What builds it; dtype: of the computation."""
    kind, widths = vision.architecture(self.architecture)
    return vision.Spec(kind, widths, self.shape, self.num_labels, self.mean, self.std, dtype)


def config(architecture: str, shape: Sequence[int], labels: Sequence[str]) -> Config:
  """Of a new model; ValueError for a word that names none. Pixels go from [0, 1] to [-1, 1]."""
  vision.architecture(architecture)
  half = (0.5,) * shape[-1]
  return Config(architecture, tuple(shape), len(labels), half, half, dict(enumerate(labels)))


def build(config: Config, key: jax.Array, dtype: str = 'float32') -> vision.Vision:
  """A model with random weights."""
  return vision.Vision(config.spec(dtype), key)


def holds(dir_or_id: str | os.PathLike) -> bool:
  """Whether this is a folder with a model of images."""
  try:
    found = weights.json_object(Path(dir_or_id).expanduser() / 'config.json')
  except (OSError, ValueError):
    return False
  return found.get('model_type') == TYPE


def save(
  dir: str | os.PathLike,
  module: vision.Vision,
  config: Config,
  *,
  labels: Sequence[str] | None = None,
  card: str | None = None,
) -> Path:
  """Write config.json, model.safetensors and README.md (card); returns the folder.

  labels: class names in id order, in the place of the config's. An existing model is replaced whole
  (folders.replacing). Raises ValueError where config, module and labels disagree.
  """
  if labels is not None:
    config = dataclasses.replace(config, id2label=dict(enumerate(labels)))
  if config.spec(module.spec.dtype) != module.spec or len(config.id2label) != config.num_labels:
    raise ValueError(f'config and module disagree: {config}, {module.spec}')
  tensors = {name.replace('/', '.'): np.asarray(v) for name, v in weights.flat(module).items()}
  with folders.replacing(dir) as (target, new):
    text = json.dumps(dataclasses.asdict(config), indent=2) + '\n'
    (new / 'config.json').write_text(text, 'utf8')
    safetensors.numpy.save_file(tensors, new / weights.FILE)
    if card is not None:
      (new / 'README.md').write_text(card, 'utf8')
  return target


def load(dir: str | os.PathLike, dtype: str = 'float32') -> tuple[vision.Vision, Config]:
  """(module, config) of a folder that save wrote.

  Raises:
    ValueError: a config or weights that are damaged or do not fit each other; the file is named.
  """
  folder = Path(dir).expanduser()
  config = _config(folder / 'config.json')
  path = folder / weights.FILE
  module = vision.abstract(config.spec(dtype))
  want = {name.replace('/', '.'): leaf.shape for name, leaf in weights.flat(module).items()}
  size = sum(math.prod(shape) for shape in want.values())
  if size > _LARGEST:
    raise ValueError(f'{folder / "config.json"} asks for {size:,} parameters')
  with weights.opened(path) as file:
    have = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if have != want:
      apart = sorted(n for n in have.keys() | want if have.get(n) != want.get(n))
      said = ', '.join(
        f'{quote.value(n)}: {have.get(n)}, expected {want.get(n)}' for n in apart[:8]
      )
      raise ValueError(f'{path}: does not hold the weights of its config ({said})')
    read = {name.replace('.', '/'): weights.tensor(file, path, name) for name in want}
  params = {name: jnp.array(array) for name, array in read.items()}
  return net.fill(module, traverse_util.unflatten_dict(params, sep='/')), config


def _config(path: Path) -> Config:
  try:
    found = weights.json_object(path)
    if found.get('model_type') != TYPE:
      raise ValueError(f'model_type is not {TYPE!r}')
    fields = {field.name for field in dataclasses.fields(Config)}
    if found.keys() != fields:
      raise ValueError(f'fields {sorted(found.keys() ^ fields)} are missing or unknown')
    for name, kind in (('shape', int), ('mean', float), ('std', float)):
      if not isinstance(found[name], list):
        raise ValueError(f'{name} is {quote.value(found[name])}')
      found[name] = tuple(map(kind, found[name]))
    names = found['id2label']
    found['id2label'] = {int(k): str(v) for k, v in names.items()}
    out = Config(**found)
    vision.architecture(out.architecture)
    _check(out)
    return out
  except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
    raise ValueError(f'{path}: no config of a model of images: {quote.error(error)}') from error


def _check(c: Config) -> None:
  C = c.shape[-1] if len(c.shape) == 3 else 0
  if not C or not all(0 < n <= 1 << 16 for n in c.shape):
    raise ValueError(f'shape {c.shape} is not height, width and channels')
  if not len(c.mean) == len(c.std) == C or not all(map(math.isfinite, c.mean + c.std)):
    raise ValueError(f'mean {c.mean} and std {c.std} are not {C} numbers each')
  if min(c.std) <= 0:
    raise ValueError(f'std {c.std} must be above 0')
  if not c.id2label or c.num_labels != len(c.id2label):
    raise ValueError(f'{len(c.id2label)} names for {c.num_labels} classes')
  if list(c.id2label) != list(range(c.num_labels)):
    raise ValueError(f'classes are numbered {list(c.id2label)[:20]}')
  if not isinstance(c.problem_type, str | None):
    raise ValueError(f'problem_type is {c.problem_type!r}')
