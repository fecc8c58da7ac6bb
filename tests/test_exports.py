"""A student in other formats: the logits of kdjax, or nothing."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from kdjax import exports, formats, net
from kdjax.models import hf
from tests import tiny, toy

SIZES = dict(
  hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3,
  max_position_embeddings=40, vocab_size=tiny.VOCAB, initializer_range=0.3,
)  # fmt: skip
NAMES = ('input_ids', 'token_type_ids', 'attention_mask')
FAMILIES = dict(
  bert=(transformers.BertConfig, SIZES, NAMES),
  roberta=(transformers.RobertaConfig, SIZES, (NAMES[0], NAMES[2])),
  distilbert=(
    transformers.DistilBertConfig,
    dict(SIZES, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    (NAMES[0], NAMES[2]),
  ),
  electra=(transformers.ElectraConfig, dict(SIZES, embedding_size=12), NAMES),
  modernbert=(
    transformers.ModernBertConfig,
    dict(SIZES, num_hidden_layers=3, local_attention=8, pad_token_id=0),
    (NAMES[0], NAMES[2]),
  ),
  deberta=(
    transformers.DebertaV2Config,
    dict(SIZES, relative_attention=True, pos_att_type=['c2p', 'p2c'], position_buckets=4),
    NAMES,
  ),
)

LONG = ('distilbert', 'electra', 'modernbert', 'deberta')


def _given(rng, rows, length, names):
  real = np.arange(length) < rng.integers(1, length + 1, (rows, 1))
  made = dict(
    input_ids=np.where(real, rng.integers(2, tiny.VOCAB, (rows, length)), 0),
    token_type_ids=np.where(real, rng.integers(0, 2, (rows, length)), 0),
    attention_mask=real,
  )
  return {name: made[name].astype(np.int32) for name in names}


@pytest.mark.parametrize(
  'family', [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in FAMILIES]
)
def test_a_file_has_the_models_logits_for_any_batch_and_length(rng, tmp_path, family):
  kind, sizes, names = FAMILIES[family]
  module = hf.build(kind(**sizes), seed=int(rng.integers(99)))
  asked = formats.Inputs(names, 24, (8, 24), module.free_length)
  calls, plain = {}, formats.plain(module, asked)
  before = {k: v for part in (jnp, jax.lax, jax.nn) for k, v in vars(part).items()}
  for name, form in formats.ALL.items():
    for package in form.needs:
      pytest.importorskip(package)
    (tmp_path / name).mkdir()
    form.write(tmp_path / name, module, asked)
    calls[name] = form.read(tmp_path / name, asked)
  after = {k: v for part in (jnp, jax.lax, jax.nn) for k, v in vars(part).items()}
  assert [k for k, v in before.items() if after[k] is not v] == []  # jax is as it was
  for rows, length in ((1, 8), (64, 24), (3, 8)):
    given = _given(rng, rows, length, names)
    want = plain(given)
    for name in ('stablehlo', 'onnx'):
      np.testing.assert_allclose(calls[name](given), want, atol=1e-5, err_msg=name)
    if rows == 64:  # 127 steps for the largest number of a row
      off = calls['int8'](given) - want
      assert 1e-5 < off.std() < 0.2 * want.std()
  given = _given(rng, 2, 13, names)  # StableHLO has no fixed lengths
  np.testing.assert_allclose(calls['stablehlo'](given), plain(given), atol=1e-5)
  arrays = jax.tree.leaves(net.split(module)[1])  # once on disk, for all lengths
  size = (tmp_path / 'onnx' / formats.WEIGHTS).stat().st_size
  assert size < sum(x.nbytes for x in arrays) + 4096 * len(arrays)


@pytest.fixture
def c(tmp_path):
  """A config whose model is a random one; what is exported goes to a folder of its own."""
  c = toy.config('kd', tmp_path, np.random.default_rng(0))
  with c.unlocked():
    c.eval.model = str(toy.model(tmp_path / 'model'))
    c.export.dir = str(tmp_path / 'made' / 'out')
  (tmp_path / 'made').mkdir()
  return c


def test_an_export_says_how_near_each_format_is(c, tmp_path, capsys):
  for package in {need for form in formats.ALL.values() for need in form.needs}:
    pytest.importorskip(package)
  c.export.update(formats='stablehlo,onnx,int8', rows=30)
  c.export.agreement = 0.5
  target = exports.export(c, tmp_path)
  said = json.loads((target / exports.REPORT).read_text())
  assert (said['rows'], said['lengths']) == (30, [12])
  assert said['names'] == list(NAMES)
  own = said['formats']
  assert {'kdjax', 'stablehlo', 'onnx'} <= set(own) <= {'kdjax', 'transformers', *formats.ALL}
  for name, row in own.items():
    assert name == 'int8' or (row['difference'] < 1e-4 and row['agreement'] == 1)
    assert row['latency_ms'] > 0 and row['bytes'] > 0
  assert 'largest difference' in capsys.readouterr().out
  files = {str(p.relative_to(target)) for p in target.rglob('*') if p.is_file()}
  assert {'stablehlo/model.stablehlo', 'onnx/model_12.onnx', 'model.safetensors'} <= files


def test_segments_of_a_second_text_reach_a_format_and_transformers(tmp_path):
  """The tokenizer, of its file alone, gives them when it is asked and not otherwise."""
  folder = toy.model(tmp_path / 'model')
  module, _, tokenizer = hf.load(str(folder))
  assert formats.inputs(module, tokenizer, 12).names == NAMES
  pair = transformers.AutoTokenizer.from_pretrained(folder)('good', 'dull')
  assert pair['token_type_ids'] == [0, 0, 0, 1, 1]


def test_the_tokenizer_of_an_export_gives_what_its_formats_read(c, tmp_path):
  where = tmp_path / 'model' / 'tokenizer_config.json'
  said = json.loads(where.read_text())
  said['model_input_names'] = ['input_ids', 'attention_mask']  # as of a folder that is not ours
  where.write_text(json.dumps(said))
  c.export.formats = 'stablehlo'
  target = exports.export(c, tmp_path)
  names = json.loads((target / exports.REPORT).read_text())['names']
  given = transformers.AutoTokenizer.from_pretrained(target)('good', 'dull')
  assert set(names) == set(given) == set(NAMES)


def test_what_a_format_does_not_read_is_found_out(c, tmp_path, monkeypatch):
  c.export.formats = 'stablehlo'
  inputs, tokenise = formats.inputs, exports.tokens.tokenise
  fewer = lambda *args: inputs(*args)._replace(names=(NAMES[0], NAMES[2]))  # noqa: E731
  second = lambda x: x._replace(segments=np.ones_like(x.segments))  # noqa: E731
  monkeypatch.setattr(formats, 'inputs', fewer)
  monkeypatch.setattr(exports.tokens, 'tokenise', lambda *args: second(tokenise(*args)))
  with pytest.raises(ValueError, match=r'logits of (transformers, )?stablehlo differ'):
    exports.export(c, tmp_path)


def test_an_export_of_an_export_has_its_own_formats_alone(c, tmp_path):
  c.export.formats = 'stablehlo'
  first = exports.export(c, tmp_path)
  c.eval.model, c.export.dir = str(first), str(tmp_path / 'made' / 'again')
  c.export.formats = ''
  again = exports.export(c, tmp_path)
  assert (first / 'stablehlo').is_dir() and not (again / 'stablehlo').exists()
  said = json.loads((again / exports.REPORT).read_text())
  assert set(said['formats']) <= {'kdjax', 'transformers'}


def test_what_is_too_far_off_is_not_left(c, tmp_path, monkeypatch):
  c.export.formats = 'stablehlo'
  read = formats.read_stablehlo
  wrong = lambda *args: lambda given: read(*args)(given) + 2e-4  # noqa: E731
  monkeypatch.setitem(formats.ALL, 'stablehlo', formats.ALL['stablehlo']._replace(read=wrong))
  with pytest.raises(ValueError, match=r'logits of stablehlo differ .*0.0002.*tolerance is 0.0001'):
    exports.export(c, tmp_path)
  c.export.update(formats='', agreement=1.1)
  with pytest.raises(ValueError, match=r'kdjax.* decides 100.00% .*agreement is 1.1'):
    exports.export(c, tmp_path)
  assert list((tmp_path / 'made').iterdir()) == []


def test_a_format_that_is_not_there_is_refused_by_name(c, tmp_path, monkeypatch):
  c.export.formats = 'onxx'
  with pytest.raises(ValueError, match=r'formats: onxx is none of stablehlo, onnx, int8'):
    exports.export(c, tmp_path)
  needs = formats.Format(None, None, ('no_such_package',))
  monkeypatch.setitem(formats.ALL, 'onnx', needs)
  c.export.formats = 'onnx'
  with pytest.raises(ValueError, match=r'needs no_such_package: pip install .*kdjax\[export\]'):
    exports.export(c, tmp_path)
