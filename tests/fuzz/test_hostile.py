"""Files made to harm: code, names that lead elsewhere, a few bytes that ask for all memory."""

import json
import os
import pickle
import struct
import time

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from kdjax import predict
from kdjax.data import files, mapped, table, tokens
from kdjax.models import hf, weights
from tests import toy


class Marker:
  """A pickle that writes a file where it is loaded."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


@pytest.fixture
def marker(tmp_path):
  """A pickle; what it would make must not be there when the test ends."""
  there = tmp_path / 'it-ran'
  yield pickle.dumps(Marker(there))
  assert not there.exists()
  pickle.loads(pickle.dumps(Marker(there)))  # it would have
  assert there.is_dir()
  there.rmdir()


@pytest.fixture
def model(tmp_path):
  return toy.model(tmp_path / 'model', layers=1)


def _edit(path, **fields):
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_pickle_in_the_place_of_any_file_is_not_loaded(tmp_path, model, marker):
  for suffix in files.READS:
    (tmp_path / f'a{suffix}').write_bytes(marker)
    with pytest.raises(ValueError, match=f'a{suffix}'):
      files.read(tmp_path / f'a{suffix}')
  for name in (weights.FILE, 'tokenizer.json', 'config.json'):
    was = (model / name).read_bytes()
    (model / name).write_bytes(marker)
    with pytest.raises(ValueError, match='model'):
      hf.load(model)
    (model / name).write_bytes(was)
  (model / weights.FILE).unlink()
  (model / 'pytorch_model.bin').write_bytes(marker)
  with pytest.raises(ValueError, match='pickled'):
    hf.load(model)


def test_a_pickle_in_a_token_cache_is_not_loaded(tmp_path, marker, caplog):
  del marker
  rows = table.Table(['a film'], None, np.zeros(1, np.int32), np.zeros(1, np.int32))
  tokens.tokenise(rows, toy.tokenizer(), 8, tmp_path / 'cache')
  (place,) = (tmp_path / 'cache').iterdir()
  for write in (np.save, np.savez):
    with (place / 'tokens.i32').open('wb') as file:
      write(file, np.array([Marker(tmp_path / 'it-ran')], object))
    caplog.clear()
    tokens.tokenise(rows, toy.tokenizer(), 8, tmp_path / 'cache')
    assert 'damaged' in caplog.text


def test_a_pickle_in_the_schema_of_a_parquet_is_not_loaded(tmp_path, marker):
  # Arrow up to 14.0.0 loaded it when it read the schema: CVE-2023-47248.
  path = tmp_path / 'a.parquet'
  told = {b'ARROW:extension:name': b'arrow.py_extension_type', b'ARROW:extension:metadata': marker}
  schema = pa.schema([pa.field('text', pa.string(), metadata=told)])
  parquet.write_table(pa.table([['a']], schema), path)
  assert parquet.read_schema(path).field('text').metadata == told
  assert files.read(path) == {'text': ['a']}


def test_no_code_of_a_model_s_folder_is_run_nor_handed_on(tmp_path, model):
  there = tmp_path / 'it-ran'
  (model / 'evil.py').write_text(f'import os; os.mkdir({str(there)!r})\nclass X: pass\n')
  told = {f'Auto{k}': 'evil.X' for k in ('Config', 'Model', 'ModelForSequenceClassification')}
  _edit(model / 'config.json', auto_map=told)
  _edit(model / 'tokenizer_config.json', auto_map=dict(AutoTokenizer=['evil.X', 'evil.X']))
  module, config, tokenizer = hf.load(model)
  hf.save(tmp_path / 'student', module, config, tokenizer)
  assert not there.exists()
  for path in (tmp_path / 'student').glob('*.json'):
    assert 'evil' not in path.read_text(), path


def test_names_in_a_model_s_files_do_not_lead_out_of_its_folder(tmp_path, model):
  other = toy.model(tmp_path / 'other', labels=3, layers=1)
  # transformers takes the newest of these that it can read.
  for name in ('../other/config.4.0.0.json', str(other / 'config.4.0.0.json')):
    (other / 'config.4.0.0.json').write_bytes((other / 'config.json').read_bytes())
    _edit(model / 'config.json', configuration_files=[name])
    assert hf.load(model)[1].num_labels == 2
  shard = tmp_path / 'other' / weights.FILE
  (model / weights.FILE).unlink()
  for name in (f'../other/{weights.FILE}', str(shard), '..\\x.safetensors', 'a\0.safetensors', 5):
    (model / weights.INDEX).write_text(json.dumps(dict(weight_map=dict(a=name))))
    with pytest.raises(ValueError, match='not its own shards'):
      hf.load(model)


def test_names_in_a_cache_do_not_lead_out_of_its_folder(tmp_path, caplog):
  for name in ('cache', 'other'):
    with mapped.writing(tmp_path / name) as writer:
      writer.add(tokens=np.ones((2, 3), np.int32))
  bounds = dict(tokens=(0, 5))
  assert mapped.load(tmp_path / 'cache', bounds)
  meta = json.loads((tmp_path / 'cache' / 'meta.json').read_text())
  _edit(tmp_path / 'cache' / 'meta.json', arrays={'../other/tokens': meta['arrays']['tokens']})
  assert mapped.load(tmp_path / 'cache', bounds) is None
  assert 'damaged' in caplog.text


_ABSURD = [
  dict(num_hidden_layers=10**12), dict(num_hidden_layers=5000), dict(hidden_size=10**12),
  dict(vocab_size=10**9, hidden_size=10**5), dict(num_attention_heads=0), dict(num_labels=10**12),
  dict(hidden_size=0), dict(intermediate_size=-1), dict(layer_norm_eps=float('nan')),
  dict(hidden_dropout_prob=1.5), dict(initializer_range=-1.0), dict(max_position_embeddings=0),
  dict(id2label={'0': 'a', '7': 'b'}), dict(num_attention_heads=3), dict(hidden_act='mish'),
]  # fmt: skip


@pytest.mark.parametrize('fields', _ABSURD, ids=str)
def test_an_absurd_config_is_refused_at_once_by_its_field(model, fields):
  _edit(model / 'config.json', **fields)
  begun = time.process_time()
  with pytest.raises(ValueError, match=r'config\.json: ') as refused:
    hf.load(model)
  assert time.process_time() - begun < 5
  assert any(word in str(refused.value) for word in (*fields, 'parameters', 'width', 'activation'))


def test_a_vocabulary_larger_than_the_model_s_is_refused(tmp_path, model):
  toy.tokenizer([*toy.WORDS, 'more']).save_pretrained(model)
  with pytest.raises(ValueError, match=r'ids go up to 23, the model has 23 rows'):
    hf.load(model)


def test_weights_of_another_type_or_not_finite_are_refused_by_name(model):
  path = model / weights.FILE
  good = path.read_bytes()
  size = struct.unpack('<Q', good[:8])[0]
  header, data = json.loads(good[8 : 8 + size]), good[8 + size :]
  name = 'bert.embeddings.word_embeddings.weight'
  begin, end = header[name]['data_offsets']

  def write(told, data, length=None):
    text = json.dumps(told).encode()
    path.write_bytes(struct.pack('<Q', length or len(text)) + text + data)

  write(header | {name: header[name] | dict(dtype='I32')}, data)
  with pytest.raises(ValueError, match=f'{weights.FILE}: {name} is I32'):
    hf.load(model)
  nan = np.full((end - begin) // 4, np.nan, '<f4').tobytes()
  write(header, data[:begin] + nan + data[end:])
  with pytest.raises(ValueError, match=f'{weights.FILE}: {name} has values that are not finite'):
    hf.load(model)
  huge = dict(x=dict(dtype='F32', shape=[2**62], data_offsets=[0, 2**64 - 1]))
  for told, length in ((header, 2**62), (header | huge, None)):
    write(told, data, length)
    with pytest.raises(ValueError, match=f'{weights.FILE}: damaged'):
      hf.load(model)


def test_a_small_file_that_would_fill_memory_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(files, 'LIMIT', 100 << 20)
  path = tmp_path / 'a.parquet'
  # A dictionary of one text of 100 kB, said 20,000 times: 2 GB.
  one = pa.array(['a' * 100_000])
  text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), one)
  parquet.write_table(pa.table(dict(text=text)), path, compression='zstd', store_schema=False)
  assert path.stat().st_size < 100_000
  with pytest.raises(ValueError, match=r'a\.parquet: .*more than \d+ bytes in memory'):
    files.read(path)
  path = tmp_path / 'a.jsonl'
  path.write_text('\n'.join(f'{{"{n}": 1}}' for n in range(3000)))
  with pytest.raises(ValueError, match=r'a\.jsonl: row \d+: \d+ different fields by \d+ rows'):
    files.read(path)


def test_many_columns_take_no_time(tmp_path):
  path = tmp_path / 'a.csv'
  names = ','.join(f'c{n}' for n in range(30_000))
  path.write_text(f'{names}\n{names}\n')
  begun = time.process_time()
  assert len(files.read(path)) == 30_000
  assert time.process_time() - begun < 20


@pytest.mark.parametrize(
  'line, said',
  [
    ('[' * 200_000, 'not JSON'),
    ('{"text": "a", "text": "b"}', "field 'text' occurs more than once"),
    ('{"text": "\\ud800"}', 'surrogates'),
    ('{"text": ' + '9' * 5000 + '}', 'digits'),
  ],
)
def test_a_line_of_json_that_harms_is_named_by_its_row(tmp_path, line, said):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"text": "a"}\n' * 1000 + line)
  with pytest.raises(ValueError, match=rf'a\.jsonl: row 1001: .*{said}'):
    files.read(path)


@pytest.mark.parametrize('bad', ['\ud800', None, 5, b'a'])
def test_what_is_no_text_is_not_classified(bad):
  reader = predict.Texts(toy.tokenizer(), 23, 8)
  for inputs in (['a', bad], [('a', 'a'), ('a', bad)]):
    if inputs[1] != ('a', None):  # then it is no pair
      with pytest.raises(ValueError, match=r'row 2 is .*, not text'):
        reader.parts(inputs)


def test_a_byte_that_is_not_utf8_is_named_by_its_row(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'{"text": "a"}\n' * 700 + b'{"text": "\xe9"}\n' + b'{"text": "a"}\n' * 700)
  with pytest.raises(ValueError, match=r'a\.jsonl: row 701: not UTF-8'):
    files.read(path)
