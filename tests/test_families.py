"""Families that are no BERT as teachers: a run from files on disk to a folder that torch reads."""

import jax
import numpy as np
import pytest

import kdjax
from kdjax import jobs, net, sharding
from kdjax.models import encoders, families, hf
from tests import toy

FAMILIES = {
  'ModernBert': dict(local_attention=4, global_attn_every_n_layers=2),
  'DebertaV2': dict(
    relative_attention=True, position_buckets=8, norm_rel_ebd='layer_norm', share_att_key=True,
    pos_att_type='p2c|c2p', position_biased_input=False,
  ),
}  # fmt: skip


@pytest.mark.parametrize('method, kind', [('kd', 'ModernBert'), ('augpro', 'DebertaV2')])
def test_a_teacher_is_fine_tuned_cut_distilled_and_read_by_torch(rng, tmp_path, method, kind):
  torch = pytest.importorskip('torch')
  import transformers

  toy.model(tmp_path / 'other', layers=4, kind=kind, **FAMILIES[kind])
  c = toy.config(
    method, tmp_path, rng, **{
      'teacher.init': str(tmp_path / 'other'), 'student.layers': 2, 'student.pick': '0,3',
      'compare': method,
    },
  )  # fmt: skip
  rows = jobs.run(jobs.prepare(c, tmp_path / 'work'))
  assert rows[method]['parameters'] < rows['teacher']['parameters']
  texts = ['good film', 'the plot was bad and dull and it is weak', 'rich']
  for name in ('teacher', method):
    folder = tmp_path / 'work' / name / 'model'
    kind_of = transformers.AutoModelForSequenceClassification
    model, report = kind_of.from_pretrained(folder, output_loading_info=True)
    assert not any(report[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    x = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors='pt')
    x = {k: x[k] for k in ('input_ids', 'attention_mask')}
    with torch.no_grad():
      want = model.eval()(**x).logits.numpy()
    ours, params = net.split(hf.load(folder)[0])
    ids, mask = (x[k].numpy() for k in ('input_ids', 'attention_mask'))
    batch = dict(tokens=ids.astype(np.int32), segments=0 * ids.astype(np.int32), mask=mask == 1)
    np.testing.assert_allclose(ours(params, batch).logits, want, rtol=1e-4, atol=1e-4)
    assert model.config.id2label == {0: 'neg', 1: 'pos'}
  clf = kdjax.load(folder, max_length=12)
  np.testing.assert_allclose(clf(texts), torch.tensor(want).softmax(-1).numpy(), atol=1e-4)


@pytest.mark.parametrize('head', families.HEADS)
def test_every_large_matrix_is_split(tmp_path, head):
  """By the same rules as BERT's; but tables of positions, which are small."""
  mesh = sharding.make_mesh(1, 2, 2)
  for kind, own in FAMILIES.items():
    folder = toy.model(tmp_path / kind, kind=kind, **own | dict(share_att_key=False))
    spec = families.spec(hf.load(folder)[1], head=head)
    params = net.split(encoders.abstract(spec))[1]
    at = sharding.lay(dict(teacher=params), mesh)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    whole = {
      '/'.join(k.key for k in path)
      for (path, leaf), where in zip(leaves, jax.tree.leaves(at), strict=True)
      if leaf.ndim > 1 and not where.spec
    }
    assert whole == ({'relative/table'} if kind == 'DebertaV2' else set())
    layer = at['teacher']['layers']['1']
    names = ('query', 'gate') if kind == 'ModernBert' else ('query', 'up')
    inner = [layer[name]['kernel'].spec for name in names]
    if kind == 'DebertaV2':
      inner += [layer['position'][name]['kernel'].spec for name in ('key', 'query')]
    assert {tuple(spec) for spec in inner} == {('fsdp', 'tensor')}


def test_tensor_parallel_devices_compute_the_same(rng, tmp_path):
  """Heads and gates on two devices each, rows on two."""
  for kind, own in FAMILIES.items():
    ours, params = net.split(hf.load(toy.model(tmp_path / kind, kind=kind, **own))[0])
    ids = rng.integers(5, 23, (4, 12)).astype(np.int32)
    batch = dict(tokens=ids, segments=0 * ids, mask=ids > 7)
    mesh = sharding.make_mesh(1, 2, 2)
    at = sharding.place(dict(teacher=params), mesh)['teacher']
    call = jax.jit(sharding.under(mesh, lambda p, b, ours=ours: ours(p, b).hidden))
    got = np.asarray(call(at, sharding.put(batch, mesh)))
    want = np.asarray(jax.jit(lambda p, b, ours=ours: ours(p, b).hidden)(params, batch))
    real = batch['mask']
    np.testing.assert_allclose(got[:, real], want[:, real], rtol=1e-4, atol=1e-4)
