"""One set of random weights in PyTorch and here: outputs and all gradients compared."""

import jax
import jax.numpy as jnp
import model_zoo
import numpy as np
import safetensors.numpy
from flax import traverse_util

from kdjax import net
from kdjax.models import families, hf, weights


def compare(conf, rng, folder, head='classify', length=model_zoo.LENGTH, tolerance=1e-4, **knobs):
  """Logits, hidden states of real tokens, and the gradient of every parameter.

  Returns the largest differences: of logits, of hidden states, of gradients (as a share of the
  largest gradient).
  """
  import torch

  model = model_zoo.torch_model(conf, head, int(rng.integers(2**31)))
  model.save_pretrained(folder)
  module = hf.load(folder, head=head, **knobs)[0]
  ours, params = net.split(module)
  batch = model_zoo.inputs(conf, int(rng.integers(2**31)), length=length)
  mask = batch['mask']
  ids = torch.tensor(batch['tokens'].astype(np.int64))
  out = model(input_ids=ids, output_hidden_states=True, **model_zoo.torch_inputs(conf, batch))
  hidden = np.stack([h.detach().numpy() for h in out.hidden_states])
  logits = out.logits.detach().numpy()
  shown = mask if head == 'mlm' else slice(None)
  # The loss reads every hidden state and the logits, where there is a token.
  weight = rng.normal(size=logits.shape).astype(np.float32)
  weight = np.where(mask[..., None], weight, 0) if head == 'mlm' else weight
  at = np.where(mask[..., None], rng.normal(size=hidden.shape), 0).astype(np.float32)
  scores = [(h * torch.tensor(w)).sum() for h, w in zip(out.hidden_states, at, strict=True)]
  ((out.logits * torch.tensor(weight)).sum() + 0.1 * sum(scores)).backward()

  def loss(params):
    got = ours(params, batch)
    return (got.logits * weight).sum() + 0.1 * (got.hidden * at).sum(), got

  grads, got = jax.jit(jax.grad(loss, has_aux=True))(params)
  apart = [
    np.abs(got.logits - logits)[shown].max(),
    np.abs(got.hidden - hidden)[:, mask].max(),
  ]
  np.testing.assert_allclose(got.logits[shown], logits[shown], rtol=tolerance, atol=tolerance)
  for l, (a, b) in enumerate(zip(got.hidden, hidden, strict=True)):
    np.testing.assert_allclose(
      a[mask], b[mask], rtol=tolerance, atol=tolerance, err_msg=f'hidden {l}'
    )

  # Under transformers' names, as the weights are written.
  weights.write(folder / 'gradients', net.fill(module, jax.tree.map(jnp.asarray, grads)))
  found = safetensors.numpy.load_file(folder / 'gradients')
  theirs = {name: p.grad for name, p in model.named_parameters()}
  largest = max(float(g.abs().max()) for g in theirs.values() if g is not None)
  names = set()
  for name, g in found.items():
    want = np.zeros_like(g) if theirs[name] is None else theirs[name].numpy()
    if name.endswith(('word_embeddings.weight', 'tok_embeddings.weight')):
      g, want = (np.delete(x, conf.pad_token_id, 0) for x in (g, want))  # torch leaves it out
    apart.append(np.abs(g - want).max() / largest)
    np.testing.assert_allclose(g, want, rtol=0, atol=tolerance * largest, err_msg=name)
    names.add(name)
  assert names == theirs.keys()
  paths = traverse_util.flatten_dict(grads, sep='/')
  assert {families.weight(conf.model_type, head, p).name for p in paths} == names
  return apart[0], apart[1], max(apart[2:])
