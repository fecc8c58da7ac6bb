"""Every family against its PyTorch model: logits, every hidden state, gradients."""

import jax
import jax.numpy as jnp
import model_zoo
import numpy as np
import pytest

from kdjax import net
from kdjax.models import hf

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')


def pair(tmp_path, family, head, **kwargs):
  """(torch model, our net, our params, config, batch) with one set of random weights."""
  seed = model_zoo.fresh_seed()
  conf = model_zoo.config(family)
  model = model_zoo.torch_model(conf, head, seed)
  model.save_pretrained(tmp_path)
  ours, params = net.split(hf.load(tmp_path, head=head, **kwargs)[0])
  return model, ours, params, conf, model_zoo.inputs(conf, seed)


def same(got, want, batch, tolerance=1e-5):
  """Equal logits, and equal hidden states where there is a token."""
  logits, hidden = want.logits.detach().numpy(), want.hidden_states
  mask = batch['mask']
  shown = (lambda x: np.asarray(x)[mask]) if logits.ndim == 3 else np.asarray
  np.testing.assert_allclose(shown(got.logits), shown(logits), rtol=tolerance, atol=tolerance)
  assert len(got.hidden) == len(hidden)
  for l, (ours, theirs) in enumerate(zip(got.hidden, hidden, strict=True)):
    np.testing.assert_allclose(
      np.asarray(ours)[mask], theirs.detach().numpy()[mask],
      rtol=tolerance, atol=tolerance, err_msg=f'hidden {l}',
    )  # fmt: skip


@pytest.mark.parametrize('head', ['classify', 'mlm'])
@pytest.mark.parametrize('family', model_zoo.FAMILIES)
def test_logits_and_every_hidden_state_are_torch_s(tmp_path, family, head):
  """By ids, by embeddings, and by one-hot distributions over the vocabulary."""
  model, ours, params, conf, batch = pair(tmp_path, family, head)
  args = model_zoo.torch_inputs(conf, batch)
  ids = torch.tensor(batch['tokens'].astype(np.int64))
  encode = jax.jit(ours.encode)
  want = model(input_ids=ids, output_hidden_states=True, **args)
  one_hot = jax.nn.one_hot(batch['tokens'], conf.vocab_size, dtype=jnp.float32)
  for words in (batch['tokens'], one_hot):
    e = ours.embed(params, words)
    same(encode(params, e, batch['mask'], batch['segments']), want, batch)
  noise = np.random.default_rng(0).normal(size=(*ids.shape, ours.table(params).shape[1]))
  e = np.asarray(ours.embed(params, batch['tokens'])) + 0.1 * noise.astype(np.float32)
  same(
    encode(params, e, batch['mask'], batch['segments']),
    model(inputs_embeds=torch.tensor(e), output_hidden_states=True, **args),
    batch,
  )


@pytest.mark.parametrize('family', model_zoo.FAMILIES)
def test_gradients_of_word_embeddings_are_torch_s(tmp_path, family):
  """What perturbations of embeddings rest on."""
  model, ours, params, conf, batch = pair(tmp_path, family, 'classify')
  e = np.asarray(ours.embed(params, batch['tokens']))
  weight = np.random.default_rng(0).normal(size=(len(e), conf.num_labels)).astype(np.float32)
  theirs = torch.tensor(e, requires_grad=True)
  logits = model(inputs_embeds=theirs, **model_zoo.torch_inputs(conf, batch)).logits
  (logits * torch.tensor(weight)).sum().backward()

  def score(e):
    return (ours.encode(params, e, batch['mask'], batch['segments']).logits * weight).sum()

  want = theirs.grad.numpy()
  got = np.asarray(jax.jit(jax.grad(score))(e))
  assert np.abs(want).max() > 0
  np.testing.assert_allclose(got, want, atol=5e-5 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize('family', ['bert', 'electra'])
def test_gradients_of_the_tied_table_are_torch_s(tmp_path, family):
  """The word table is used twice by a masked-LM head: both uses count."""
  model, ours, params, conf, batch = pair(tmp_path, family, 'mlm')
  mask = batch['mask'][..., None]
  weight = np.random.default_rng(0).normal(size=(*batch['tokens'].shape, conf.vocab_size))
  weight = np.where(mask, weight, 0).astype(np.float32)
  ids = torch.tensor(batch['tokens'].astype(np.int64))
  logits = model(input_ids=ids, **model_zoo.torch_inputs(conf, batch)).logits
  (logits * torch.tensor(weight)).sum().backward()
  got = jax.jit(jax.grad(lambda p: (ours(p, batch).logits * weight).sum()))(params)
  want = model.get_input_embeddings().weight.grad.numpy()
  got = np.asarray(got['embeddings']['word']['table'])
  rows = np.arange(conf.vocab_size) != conf.pad_token_id  # torch drops its lookup gradient
  np.testing.assert_allclose(got[rows], want[rows], atol=5e-5 * np.abs(want).max(), rtol=0)


def test_jax_s_own_attention_is_torch_s_too(tmp_path):
  model, ours, params, conf, batch = pair(tmp_path, 'bert', 'classify', attention='xla')
  ids = torch.tensor(batch['tokens'].astype(np.int64))
  want = model(input_ids=ids, output_hidden_states=True, **model_zoo.torch_inputs(conf, batch))
  same(jax.jit(lambda p: ours(p, batch))(params), want, batch)


@pytest.mark.parametrize('activation', ['gelu_new', 'relu', 'silu'])
def test_activations_are_those_that_transformers_means(tmp_path, activation):
  conf = model_zoo.config('bert', hidden_act=activation)
  model = model_zoo.torch_model(conf, 'mlm', model_zoo.fresh_seed())
  model.save_pretrained(tmp_path)
  ours, params = net.split(hf.load(tmp_path, head='mlm')[0])
  batch = model_zoo.inputs(conf)
  ids = torch.tensor(batch['tokens'].astype(np.int64))
  want = model(input_ids=ids, output_hidden_states=True, **model_zoo.torch_inputs(conf, batch))
  same(jax.jit(lambda p: ours(p, batch))(params), want, batch)


def test_minilm_on_real_sentences_is_torch_s():
  """The pretrained encoder of the quick start, pooler included."""
  import transformers

  try:
    folder = hf.minilm()
  except ModuleNotFoundError as error:
    pytest.skip(str(error))
  module, _, tokenizer = hf.load(folder, 2)
  texts = ['A gripping film.', 'The plot goes nowhere, slowly, for two hours.', 'why?']
  pairs = ['I would see it again.', 'Nobody stayed.', 'because of its length and its music']
  x = tokenizer(texts, pairs, padding=True, return_tensors='np')
  model = transformers.AutoModel.from_pretrained(folder).eval()
  with torch.no_grad():
    want = model(**{k: torch.tensor(v) for k, v in x.items()}, output_hidden_states=True)
  mask = x['attention_mask'].astype(bool)
  ours, params = net.split(module)
  tokens, segments = (x[k].astype(np.int32) for k in ('input_ids', 'token_type_ids'))
  batch = dict(tokens=tokens, mask=mask, segments=segments)
  got = jax.jit(lambda p: ours(p, batch))(params)
  for ours, theirs in zip(got.hidden, want.hidden_states, strict=True):
    np.testing.assert_allclose(np.asarray(ours)[mask], theirs.numpy()[mask], atol=1e-4, rtol=0)
  pooled = jnp.tanh(module.head.dense(got.hidden[-1][:, 0], jnp.float32))
  np.testing.assert_allclose(pooled, want.pooler_output.numpy(), atol=1e-4, rtol=0)
  print(
    'minilm', np.abs(np.asarray(got.hidden[-1])[mask] - want.hidden_states[-1].numpy()[mask]).max()
  )
