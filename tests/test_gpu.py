"""benchmarks/gpu.py: slices, each on its own, and what is said of the targets."""

import json

import pytest

from benchmarks import gpu, step


def _kept(out):
  return json.loads((out / 'gpu.json').read_text())


def _run(out, name, capsys, **flags):
  """(exit code, what was printed) of one slice."""
  code = gpu.main([str(out), name, '--tiny', *(f'--{k}={v}' for k, v in flags.items())])
  return code, capsys.readouterr().out


def test_a_slice_leaves_its_numbers_and_is_not_run_again(tmp_path, capsys):
  code, said = _run(tmp_path, 'rbg', capsys)
  assert code == 0 and 'rbg: done' in said
  r = _kept(tmp_path)['rbg']
  assert '--prng=rbg' in r['command'] and r['found']['rows']['kd']['kdjax'][0] > 0
  assert '| kd ' in (tmp_path / 'gpu.md').read_text()
  assert sorted(path.name for path in tmp_path.iterdir()) == ['gpu.json', 'gpu.log', 'gpu.md']
  code, said = _run(tmp_path, 'rbg', capsys)
  assert code == 0 and 'rbg: is there' in said and _kept(tmp_path)['rbg'] == r


def test_a_slice_without_time_costs_no_other(tmp_path, capsys, monkeypatch):
  before = dict(rbg=dict(ended='done', command='', seconds=1.0, found={}, said=''))
  (tmp_path / 'gpu.json').write_text(json.dumps(before))
  code, said = _run(tmp_path, 'large', capsys, seconds=30)
  assert code == 1 and 'large: not begun' in said and _kept(tmp_path) == before
  monkeypatch.setattr(gpu, '_LEAST', 0)
  code, said = _run(tmp_path, 'large', capsys, seconds=0.5)
  assert code == 1 and _kept(tmp_path)['large']['ended'].startswith('ended after')
  assert _kept(tmp_path)['rbg'] == before['rbg']


def test_targets_are_told_from_the_numbers():
  peak, seconds = dict(flops=1e12), dict(kdjax=[0.1], torch=[0.25], compile=[0.11])
  rows = dict(kd=step.row(seconds, 6e10, {}, peak, 1))
  proofs = {'none': [0.098], 'search': [0.12], 'proofs': [0.1]}
  proofs = {k: dict(seconds=v) for k, v in proofs.items()}
  turns = dict(augpro=dict(kdjax=[0.1]), mate_kd=dict(kdjax=[0.14]))
  eight = dict(seeds=8, rows=dict(docs=dict(one=[0.1], all=[0.25])))
  found = dict(large=dict(rows=rows), seeds=eight, mate=dict(rows=turns))
  found['projection'] = dict(rows=proofs, as_large_as_all_scores=[])
  lines = gpu.targets({name: dict(found=each) for name, each in found.items()})
  assert [line[1:3] for line in lines] == [
    ['60 %', 'yes'],
    ['2.50', 'yes'],
    ['1.10', 'no'],
    ['18.3 %', 'no'],
    ['2.0 %', 'yes'],
    ['0', 'yes'],
    ['1.40', 'no'],
    ['2.50', 'yes'],
  ]


@pytest.mark.slow
@pytest.mark.parametrize('name', gpu.SLICES)
def test_every_slice_runs(name, tmp_path, capsys):
  pytest.importorskip('torch')
  code, said = _run(tmp_path, name, capsys, seconds=1200)
  assert code == 0, f'{said}\n{(tmp_path / "gpu.log").read_text()[-3000:]}'
  assert _kept(tmp_path)[name]['found']
