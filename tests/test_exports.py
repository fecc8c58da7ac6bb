"""A student in other formats: the logits of kdjax, or nothing."""

import json

import jax
import numpy as np
import pytest
import transformers

from kdjax import exports, formats, jobs, net
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
)


def _given(rng, rows, length, names):
  real = np.arange(length) < rng.integers(1, length + 1, (rows, 1))
  made = dict(
    input_ids=np.where(real, rng.integers(2, tiny.VOCAB, (rows, length)), 0),
    token_type_ids=np.where(real, rng.integers(0, 2, (rows, length)), 0),
    attention_mask=real,
  )
  return {name: made[name].astype(np.int32) for name in names}


@pytest.mark.parametrize('family', FAMILIES)
def test_a_file_has_the_models_logits_for_any_batch_and_length(rng, tmp_path, family):
  kind, sizes, names = FAMILIES[family]
  cut, params = net.split(hf.build(kind(**sizes), seed=int(rng.integers(99))))
  asked = formats.Inputs(names, 24, (8, 24))
  calls, plain = {}, formats.plain(cut, params, asked)
  for name, form in formats.ALL.items():
    for package in form.needs:
      pytest.importorskip(package)
    form.write(tmp_path, cut, params, asked)
    calls[name] = form.read(tmp_path, asked)
  for rows, length in ((1, 8), (5, 24), (3, 8)):
    given = _given(rng, rows, length, names)
    for name, call in calls.items():
      np.testing.assert_allclose(call(given), plain(given), atol=1e-5, err_msg=name)
  given = _given(rng, 2, 13, names)  # StableHLO has no fixed lengths
  np.testing.assert_allclose(calls['stablehlo'](given), plain(given), atol=1e-5)
  whole = sum(x.nbytes for x in jax.tree.leaves(params))  # once on disk, for all lengths
  assert (tmp_path / formats.WEIGHTS).stat().st_size < whole + 4096 * len(jax.tree.leaves(params))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(config, workdir) of a finished run of kd."""
  folder = tmp_path_factory.mktemp('exports')
  c = toy.config('kd', folder, np.random.default_rng(0), **{'train.steps': 2, 'compare': ''})
  jobs.run(jobs.prepare(c, folder / 'work'))
  return c, folder / 'work'


def test_an_export_says_how_near_each_format_is(run, tmp_path, capsys):
  c, workdir = run[0].copy_and_resolve_references(), run[1]
  for package in formats.ALL['onnx'].needs:
    pytest.importorskip(package)
  c.export.update(dir=str(tmp_path / 'out'), formats='stablehlo,onnx', rows=30)
  target = exports.export(c, workdir)
  said = json.loads((target / exports.REPORT).read_text())
  assert (said['rows'], said['lengths']) == (30, [12])
  assert said['inputs'] == ['input_ids', 'attention_mask']  # all that the tokenizer gives
  own = said['formats']
  assert {'kdjax', 'stablehlo', 'onnx'} <= set(own) <= {'kdjax', 'transformers', *formats.ALL}
  for row in own.values():
    assert row['difference'] < 1e-4 and row['agreement'] == 1
    assert row['latency_ms'] > 0 and row['bytes'] > 0
  assert 'largest difference' in capsys.readouterr().out
  files = {str(p.relative_to(target)) for p in target.rglob('*') if p.is_file()}
  assert {'stablehlo/model.stablehlo', 'onnx/model_12.onnx', 'model.safetensors'} <= files


def test_what_is_too_far_off_is_not_left(run, tmp_path, monkeypatch):
  c, workdir = run[0].copy_and_resolve_references(), run[1]
  c.export.update(dir=str(tmp_path / 'out'), formats='stablehlo')
  read = formats.read_stablehlo
  wrong = lambda *args: lambda given: read(*args)(given) + 2e-4  # noqa: E731
  monkeypatch.setitem(formats.ALL, 'stablehlo', formats.ALL['stablehlo']._replace(read=wrong))
  with pytest.raises(ValueError, match=r'differ .*0.0002 \(stablehlo\).*tolerance is 0.0001'):
    exports.export(c, workdir)
  assert list(tmp_path.iterdir()) == []


def test_a_format_that_is_not_there_is_refused_by_name(run, monkeypatch):
  c, workdir = run[0].copy_and_resolve_references(), run[1]
  c.export.formats = 'onxx'
  with pytest.raises(ValueError, match=r'config.export.formats: onxx is none of stablehlo, onnx'):
    exports.export(c, workdir)
  needs = formats.Format(None, None, ('no_such_package',))
  monkeypatch.setitem(formats.ALL, 'onnx', needs)
  c.export.formats = 'onnx'
  with pytest.raises(ValueError, match=r'needs no_such_package: pip install .*kdjax\[onnx\]'):
    exports.export(c, workdir)
