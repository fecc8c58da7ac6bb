"""Folders of models: config.json, safetensors, the index of shards, tokenizer files."""

import functools
import json
import math
import os
import struct

import numpy as np
import pytest
from hypothesis import strategies as st

from kdjax.models import encoders, families, hf, vision_files, weights
from tests import toy
from tests.fuzz import damage

_KEYS = [
  'hidden_size', 'vocab_size', 'num_hidden_layers', 'num_attention_heads', 'model_type', 'auto_map',
  'intermediate_size', 'max_position_embeddings', 'num_labels', 'id2label', 'label2id', 'to_dict',
  'problem_type', 'classifier_dropout', 'position_embedding_type', 'is_decoder', 'pad_token_id',
  'configuration_files', 'dtype', 'architectures', 'hidden_act', 'save_pretrained', '__class__',
  'layer_types', 'rope_parameters', 'rope_scaling', 'local_attention', 'classifier_pooling',
  'global_attn_every_n_layers', 'global_rope_theta', 'norm_bias', 'mlp_dropout', 'sliding_window',
  'position_buckets', 'max_relative_positions', 'pos_att_type', 'norm_rel_ebd', 'share_att_key',
  'conv_kernel_size', 'attention_head_size', 'pooler_hidden_size', 'pooler_dropout',
]  # fmt: skip
_TOKENIZER_KEYS = [
  'tokenizer_class', 'auto_map', 'model_max_length', 'added_tokens_decoder', 'vocab_file',
  'extra_special_tokens', 'padding_side', 'tokenizer_file', 'fast_tokenizer_files',
]  # fmt: skip
_VALUES = st.one_of(
  damage.ANY,
  st.sampled_from([['full_attention'], ['c2p'], dict(full_attention=dict(rope_theta=2.0))]),
  st.sampled_from(['bert', 'roberta', 'electra', 'distilbert', 'gpt2', 'mish', 'gelu', 'load']),
  st.dictionaries(st.sampled_from(['0', '1', '2', 'x', '-1']), damage.ANY, max_size=3),
)
_SPECIAL = ['the', '', ' ', '\0', '\U0001f600\u202e\u05d0', '!?#', '\ufeff', 'x' * 100_000]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return toy.model(tmp_path_factory.mktemp('models') / 'toy', layers=1)


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'it').mkdir()
  return tmp_path / 'it'


def _object(path) -> dict:
  return json.loads(path.read_bytes())


def _json(valid: dict, keys=(), values=damage.ANY):
  """Bytes in the place of a JSON file."""
  other = damage.changed(valid, keys, values) | damage.ANY
  odd = st.sampled_from([b'', b'[' * 100_000, b'\xff\xfe{\0}\0', b'{"a": 1', b'9' * 5000])
  return damage.edited(json.dumps(valid).encode()) | other.map(damage.as_json) | odd


@pytest.mark.parametrize('family', ['bert', 'roberta', 'distilbert', 'modernbert', 'deberta-v2'])
def test_a_config_is_of_a_model_that_can_be_built_or_refused(fuzz, model, folder, family):
  valid = _object(model / 'config.json') | dict(model_type=family)
  valid |= {
    'modernbert': dict(classifier_dropout=0.1, eos_token_id=3, layer_types=['full_attention']),
    'deberta-v2': dict(relative_attention=True, pos_att_type=['c2p'], position_buckets=8),
  }.get(family, {})
  limits = {field: low for field, (low, _) in families._LIMITS.items()}

  def once(data):
    (folder / 'config.json').write_bytes(data)
    made = []

    def read():
      try:
        config = hf._config(folder)
        made.append((config, families.spec(config)))
      except ValueError as error:  # as hf.read names it
        raise ValueError(f'{folder}: {error}') from error

    out = damage.outcome(folder, read)
    if out == 'read':
      config, spec = made[0]
      assert all(getattr(spec, field) >= low for field, low in limits.items())
      assert spec.width % spec.heads == 0 and spec.max_length >= 1
      assert list(config.id2label) == list(range(spec.num_labels))
      assert all(isinstance(name, str) for name in config.id2label.values())
      json.loads(config.to_json_string())  # what a student's config is made of
    return out

  fuzz(_json(valid, _KEYS, _VALUES), once, share=2 / 3)


def _framed(header: bytes, data: bytes, length: int | None = None) -> bytes:
  return struct.pack('<Q', len(header) if length is None else length) + header + data


def _safetensors(valid: bytes):
  """Files with another header, of another length, or edited and cut anywhere."""
  size = struct.unpack('<Q', valid[:8])[0]
  header, data = valid[8 : 8 + size], valid[8 + size :]
  numbers = st.sampled_from([-1, 0, 1, 16, 2**31, 2**62, 2**63, 2**64 - 1, 10**30])
  values = st.one_of(
    damage.ANY,
    numbers,
    st.lists(numbers, max_size=3),
    st.sampled_from(['F64', 'F32', 'F16', 'BF16', 'I32', 'U8', 'BOOL', 'F8_E4M3', 'X']),
  )
  found = json.loads(header)
  places = ['bert.x', '__metadata__', 'bert/../x', *found]
  new = damage.changed(found, places, values).map(damage.as_json)
  twice = header.replace(
    b'{', b'{"classifier.bias":{"dtype":"F32","shape":[],"data_offsets":[0,4]},', 1
  )
  return st.one_of(
    new.map(lambda h: _framed(h, data)),
    damage.edited(header).map(lambda h: _framed(h, data)),
    damage.edited(valid),
    numbers.filter(lambda n: 0 <= n < 2**64).map(lambda n: _framed(header, data, n)),
    st.integers(0, len(valid)).map(lambda n: valid[:n] + b'' if n < len(valid) else valid + b'x'),
    st.sampled_from([b'', _framed(twice, data), _framed(b'{}', b''), b'PK\x03\x04', b'\x80\x04N.']),
  )


def test_damaged_weights_are_those_of_the_config_or_refused(fuzz, model, folder, monkeypatch):
  spec = families.spec(hf._config(model))
  shape = {path: leaf.shape for path, leaf in weights.flat(encoders.abstract(spec)).items()}
  monkeypatch.setattr(encoders, 'abstract', functools.cache(encoders.abstract))
  monkeypatch.setattr(weights.jnp, 'array', np.array)  # as many transfers as there are inputs

  def once(data):
    (folder / weights.FILE).write_bytes(data)
    found = []
    out = damage.outcome(folder, lambda: found.append(weights.read(folder, spec).params))
    if out == 'read':
      got = weights.traverse_util.flatten_dict(found[0], sep='/')
      assert {path: array.shape for path, array in got.items()} == shape
      assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in got.values())
    return out

  fuzz(_safetensors((model / weights.FILE).read_bytes()), once)


def test_an_index_names_shards_of_its_own_folder_or_is_refused(fuzz, model, folder):
  os.link(model / weights.FILE, folder / 'model-1.safetensors')
  os.link(model / weights.FILE, folder.parent / 'x.safetensors')
  names = list(weights.stored(model))
  valid = dict(metadata={}, weight_map=dict.fromkeys(names, 'model-1.safetensors'))
  elsewhere = [
    '../x.safetensors',
    '..',
    'x\0.safetensors',
    '/etc/passwd',
    str(model / weights.FILE),
  ]
  values = damage.ANY | st.sampled_from([*elsewhere, 'model-2.safetensors', 'model-1.safetensors'])

  def once(data):
    (folder / weights.INDEX).write_bytes(data)
    found = {}
    out = damage.outcome(folder, lambda: found.update(weights.stored(folder)))
    assert {path for path, _ in found.values()} <= {folder / 'model-1.safetensors'}
    return out

  fuzz(_json(valid, ['weight_map'], values), once)


def test_a_tokenizer_writes_ids_of_the_model_or_is_refused(fuzz, model, folder):
  config = hf._config(model)
  files = {name: _object(model / name) for name in ('tokenizer.json', 'tokenizer_config.json')}
  (folder / 'config.json').write_bytes((model / 'config.json').read_bytes())
  words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'the', '##s', '', '\ufeff', 'LONG']
  vocabulary = st.lists(st.sampled_from(words), max_size=12).map(lambda w: '\n'.join(w).encode())
  given = st.one_of(
    *(
      st.tuples(st.just(n), _json(v, _TOKENIZER_KEYS * (n != 'tokenizer.json')))
      for n, v in files.items()
    ),
    st.tuples(st.just('vocab.txt'), vocabulary | st.binary(max_size=40)),
  )

  def once(given):
    for name in ('tokenizer.json', 'tokenizer_config.json', 'vocab.txt'):
      (folder / name).unlink(missing_ok=True)
    for name, valid in files.items():
      if given[0] != 'vocab.txt' or name == 'tokenizer_config.json':
        (folder / name).write_text(json.dumps(valid | dict(tokenizer_class='BertTokenizer')))
    (folder / given[0]).write_bytes(given[1])
    found = []
    out = damage.outcome(folder, lambda: found.append(hf._tokenizer(folder, config)))
    if out == 'read':
      for ids in found[0](_SPECIAL)['input_ids']:
        assert all(0 <= i < config.vocab_size for i in ids)
    return out

  fuzz(given, once)


def test_a_model_of_images_is_as_its_config_says_or_refused(fuzz, folder):
  config = vision_files.config('mlp:4', (2, 2, 1), ['a', 'b'])
  module = vision_files.build(config, weights.jax.random.key(0))
  good = vision_files.save(folder.parent / 'good', module, config)
  files = {name: (good / name).read_bytes() for name in ('config.json', weights.FILE)}
  valid = json.loads(files['config.json'])
  values = damage.ANY | st.sampled_from(
    [[2, 2], [1e400, 1, 1], '221', [0, 1, 1], 'mlp:99999,99999']
  )
  given = st.one_of(
    st.tuples(st.just('config.json'), _json(valid, list(valid), values)),
    st.tuples(st.just(weights.FILE), _safetensors(files[weights.FILE])),
  )

  def once(given):
    for name, data in (files | dict([given])).items():
      (folder / name).write_bytes(data)
    found = []
    vision_files.holds(folder)
    out = damage.outcome(folder, lambda: found.append(vision_files.load(folder)))
    if out == 'read':
      module, config = found[0]
      assert math.prod(config.shape) > 0 and len(config.id2label) == config.num_labels
      assert all(np.isfinite(a).all() for a in weights.flat(module).values())
    return out

  fuzz(given, once, share=0.5)
