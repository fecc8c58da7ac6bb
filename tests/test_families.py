"""Families that are no BERT as teachers: a run from files on disk to a folder that torch reads."""

import jax
import numpy as np
import pytest

import kdjax
from kdjax import jobs, net, sharding
from kdjax.models import encoders, families, hf
from tests import toy

FAMILIES = {
  'Albert': dict(embedding_size=12),
  'ModernBert': dict(local_attention=4, global_attn_every_n_layers=2),
  'DebertaV2': dict(
    relative_attention=True, position_buckets=8, norm_rel_ebd='layer_norm', share_att_key=True,
    pos_att_type='p2c|c2p', position_biased_input=False,
  ),
}  # fmt: skip
SMALL = {
  'Albert': ('embeddings/position/table', 'embeddings/type/table'),
  'DebertaV2': ('relative/table',),
}


@pytest.mark.parametrize(
  'kind', [pytest.param(n, marks=pytest.mark.slow if n == 'Albert' else ()) for n in FAMILIES]
)
def test_a_teacher_is_fine_tuned_cut_distilled_and_read_by_torch(rng, tmp_path, kind):
  torch = pytest.importorskip('torch')
  import transformers

  toy.model(tmp_path / 'other', kind=kind, **FAMILIES[kind])
  changes = {'teacher.init': str(tmp_path / 'other'), 'student.pick': '1', 'compare': 'kd'}
  c = toy.config('kd', tmp_path, rng, **changes, **{'mesh.data': 1})
  rows = jobs.run(jobs.prepare(c, tmp_path / 'work'))
  fewer = rows['teacher']['parameters'] - rows['kd']['parameters']
  assert fewer == 0 if kind == 'Albert' else fewer > 0  # one block, used less often
  texts = ['good film', 'the plot was bad and dull and it is weak', 'rich']
  for name in ('teacher', 'kd'):
    folder = tmp_path / 'work' / name / 'model'
    reader = transformers.AutoModelForSequenceClassification
    model, report = reader.from_pretrained(folder, output_loading_info=True)
    assert not any(report[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    x = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors='pt')
    ids, mask = x['input_ids'], x['attention_mask']
    with torch.no_grad():
      want = model.eval()(input_ids=ids, attention_mask=mask).logits
    ours, params = net.split(hf.load(folder)[0])
    ids = ids.numpy().astype(np.int32)
    batch = dict(tokens=ids, segments=0 * ids, mask=mask.numpy() == 1)
    got = jax.jit(lambda p, ours=ours, batch=batch: ours(p, batch).logits)(params)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-4)
    assert model.config.id2label == {0: 'neg', 1: 'pos'}
  clf = kdjax.load(folder, max_length=12)
  np.testing.assert_allclose(clf(texts), want.softmax(-1).numpy(), atol=1e-5)


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
    assert whole == set(SMALL.get(kind, ()))
    *_, layer = at['teacher']['layers'].values()
    names = ('query', 'gate') if kind == 'ModernBert' else ('query', 'up')
    inner = [layer[name]['kernel'].spec for name in names]
    if kind == 'DebertaV2':
      inner += [layer['position'][name]['kernel'].spec for name in ('key', 'query')]
    assert {tuple(spec) for spec in inner} == {('fsdp', 'tensor')}
