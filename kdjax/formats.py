"""A classifier as a file that needs no kdjax: StableHLO, of float32 or of int8, and ONNX.

Both take what a HuggingFace tokenizer gives, `Inputs.names`, i32[B, L] each, and return logits
f32[B, C]. Parameters are constants of the file.
"""

import contextlib
import hashlib
import logging
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import export

from kdjax import net
from kdjax.data import lengths

REMEDY = "pip install 'kdjax[export]'"
HLO, ONNX, WEIGHTS = 'model.stablehlo', 'model_{}.onnx', 'weights.bin'
_PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
_LENGTHS = (16, 32, 64, 128, 256, 512)
_SMALL = 1024  # bytes; smaller constants stay in the graph
_NAMES = dict(input_ids='tokens', token_type_ids='segments', attention_mask='mask')
NAMES = tuple(_NAMES)

Call = Callable[[dict[str, np.ndarray]], np.ndarray]  # inputs by name -> logits f32[B, C]


class Inputs(NamedTuple):
  """What a model takes.

  names: of its inputs, in order. longest: tokens of a text at most. lengths: to which texts are
  padded, where a format has fixed ones. free: whether the model is one program for all lengths.
  """

  names: tuple[str, ...]
  longest: int
  lengths: tuple[int, ...]
  free: bool = True

  def of(self, batch: net.Batch) -> dict[str, np.ndarray]:
    """A batch of kdjax by those names, i32."""
    return {name: np.asarray(batch[_NAMES[name]], np.int32) for name in self.names}


class Format(NamedTuple):
  """write: (folder, module, inputs); read: (folder, inputs) -> Call; needs: packages.

  exact: its logits are the model's but for rounding; else its decisions are to be, mostly.
  """

  write: Callable
  read: Callable[..., Call]
  needs: tuple[str, ...] = ()
  exact: bool = True


def inputs(module, tokenizer, longest: int) -> Inputs:
  """Those that the tokenizer gives and an encoder reads."""
  names = tuple(name for name in _NAMES if name in tokenizer.model_input_names)
  return Inputs(names, longest, lengths.upto(_LENGTHS, longest), module.free_length)


def plain(module, asked: Inputs) -> Call:
  """The model itself, as the formats are called."""
  call = jax.jit(_of(module, asked))
  return lambda given: np.asarray(call(*(given[name] for name in asked.names)))


def _function(logits: Callable, asked: Inputs) -> Callable:
  """Arrays in the order of asked.names -> what `logits` makes of them as a batch of kdjax."""

  def classify(*arrays):
    given = {_NAMES[name]: x for name, x in zip(asked.names, arrays, strict=True)}
    batch = dict(given, mask=given['mask'] != 0)
    batch.setdefault('segments', given['tokens'] * 0)
    return logits(batch)

  return classify


def _of(module, asked: Inputs) -> Callable:
  cut, params = net.split(module)
  return _function(lambda batch: cut(params, batch).logits, asked)


def write_stablehlo(folder: pathlib.Path, module, asked: Inputs) -> None:
  """<folder>/model.stablehlo, by jax.export: of any batch and length; CPU, GPU and TPU.

  Of a model that computes with its length, as DeBERTa does, of the longest alone.
  """
  _serialise(folder, _of(module, asked), asked)


def _serialise(folder: pathlib.Path, function: Callable, asked: Inputs) -> None:
  said = 'batch, length' if asked.free else f'batch, {asked.longest}'
  shape = export.symbolic_shape(said, constraints=[f'length <= {asked.longest}'] * asked.free)
  each = [jax.ShapeDtypeStruct(shape, np.int32)] * len(asked.names)
  exported = export.export(jax.jit(function), platforms=_PLATFORMS)(*each)
  (folder / HLO).write_bytes(exported.serialize())


def write_int8(folder: pathlib.Path, module, asked: Inputs) -> None:
  """As StableHLO, by qwix: kernels of dense layers int8, a scale a column; inputs as they come.

  The word table stays float32: it is looked up, and multiplies nothing.
  """
  import qwix

  rule = qwix.QuantizationRule(module_path='.*', weight_qtype='int8', act_qtype='int8')
  ids = np.zeros((1, asked.lengths[0]), np.int32)
  like = dict(tokens=ids, mask=ids == 0, segments=ids)
  small = qwix.quantize_model(_Whole(module), qwix.PtqProvider([rule]), like)
  _serialise(folder, _function(small, asked), asked)


class _Whole(nnx.Module):
  """An encoder as one call, which qwix wants."""

  def __init__(self, module):
    self.module = module

  def __call__(self, batch: net.Batch) -> jax.Array:
    e_BLE = self.module.embed(batch['tokens'])
    return self.module.encode(e_BLE, batch['mask'], batch['segments']).logits


def read_stablehlo(folder: pathlib.Path, asked: Inputs) -> Call:
  """The file as a function."""
  call = jax.jit(export.deserialize((folder / HLO).read_bytes()).call)

  def padded(x_BL: np.ndarray) -> np.ndarray:
    return np.pad(x_BL, [(0, 0), (0, 0 if asked.free else asked.longest - x_BL.shape[1])])

  return lambda given: np.asarray(call(*(padded(given[name]) for name in asked.names)))


def write_onnx(folder: pathlib.Path, module, asked: Inputs) -> None:
  """<folder>/model_<length>.onnx of each length, for any batch, and the weights that they share."""
  with _unpatched():
    _write_onnx(folder, module, asked)


@contextlib.contextmanager
def _unpatched() -> Iterator[None]:
  """jax's functions are jax's again afterwards: jax2onnx, once imported, replaces some for good."""
  public = {
    name: {k: v for k, v in vars(part).items() if callable(v)}
    for name, part in list(sys.modules.items())
    if name.split('.')[0] in ('jax', 'flax') and '._' not in name
  }
  try:
    yield
  finally:
    for name, own in public.items():
      for key, function in own.items():
        if vars(sys.modules[name]).get(key) is not function:
          setattr(sys.modules[name], key, function)


def _write_onnx(folder: pathlib.Path, module, asked: Inputs) -> None:
  import jax2onnx
  import onnx

  for name in ('jax2onnx', 'onnx_ir'):  # of shapes that they leave out, a line each
    logging.getLogger(name).setLevel(logging.ERROR)
  function, kept = _of(module, asked), {}
  with (folder / WEIGHTS).open('wb') as file:
    for length in asked.lengths:
      each = [jax.ShapeDtypeStruct(('batch', length), np.int32)] * len(asked.names)
      graph = jax2onnx.to_onnx(
        function, each, model_name='kdjax', input_names=asked.names, output_names=['logits']
      )
      for tensor in graph.graph.initializer:
        _move(tensor, file, kept)
      onnx.save(graph, folder / ONNX.format(length))


def _move(tensor, file, kept: dict[bytes, int]) -> None:
  """A large constant goes into the common file, once."""
  from onnx import external_data_helper, numpy_helper

  array = numpy_helper.to_array(tensor)
  if array.nbytes < _SMALL:
    return
  tensor.raw_data = array.tobytes()
  for other in ('float_data', 'int32_data', 'int64_data'):
    tensor.ClearField(other)
  key = hashlib.sha256(tensor.raw_data).digest()
  if key not in kept:
    file.seek(-(-file.tell() // 4096) * 4096)  # mapped by whole pages
    kept[key] = file.tell()
    file.write(tensor.raw_data)
  external_data_helper.set_external_data(tensor, WEIGHTS, kept[key], array.nbytes)
  tensor.ClearField('raw_data')


def read_onnx(folder: pathlib.Path, asked: Inputs) -> Call:
  """The files as one function, of the lengths that there are; on this machine's CPU."""
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3  # of shapes that it merges, a line each, in colours
  sessions = {
    length: onnxruntime.InferenceSession(
      folder / ONNX.format(length), options, providers=['CPUExecutionProvider']
    )
    for length in asked.lengths
  }

  def call(given):
    session = sessions[given['input_ids'].shape[1]]
    return session.run(['logits'], {x.name: given[x.name] for x in session.get_inputs()})[0]

  return call


def read_torch(folder: pathlib.Path) -> Call:
  """The HuggingFace folder as transformers on torch reads it."""
  import torch
  import transformers

  transformers.utils.logging.disable_progress_bar()
  model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()

  def call(given):
    with torch.no_grad():
      return model(**{k: torch.from_numpy(x).long() for k, x in given.items()}).logits.numpy()

  return call


ALL = dict(
  stablehlo=Format(write_stablehlo, read_stablehlo, ('flatbuffers',)),
  onnx=Format(write_onnx, read_onnx, ('jax2onnx', 'onnxruntime')),
  int8=Format(write_int8, read_stablehlo, ('flatbuffers', 'qwix'), exact=False),
)
