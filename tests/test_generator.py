"""The generator: which models may be one, and its run beside the others."""

import json

import jax
import numpy as np
import pytest

from kdjax import dry, exports, inference, jobs, net, runs
from kdjax.models import hf
from tests import toy


def _writer(where, layers: int = 2, words=toy.WORDS):
  """A folder of a masked language model with a head of its own."""
  import transformers

  config = transformers.BertConfig.from_pretrained(toy.model(where, words, layers=layers))
  hf.save(where, hf.build(config, head='mlm', seed=5), config, toy.tokenizer(words))
  return where


def _config(folder, rng, method='mate_kd', **changes):
  small = {'train.steps': 2, 'teacher.steps': 2, 'generator.steps': 2, 'compare': ''}
  if method == 'mate_kd':
    small |= {'method.gen_turns': 1, 'method.student_turns': 1}
  return toy.config(method, folder, rng, **small | changes)


def _same(*folders, head='mlm'):
  one, two = (net.split(hf.load(f, head=head)[0])[1] for f in folders)
  return jax.tree.all(jax.tree.map(np.array_equal, one, two))


@pytest.fixture(scope='module')
def game(tmp_path_factory):
  """(config, workdir, rows, what fit was given by title): MATE-KD and its generator, KD beside."""
  folder = tmp_path_factory.mktemp('game')
  c = _config(folder, np.random.default_rng(0), compare='kd')
  given, fit = {}, jobs.train.fit

  def spy(method, params, data, score, fields, *rest):
    (own,) = params  # of the one seed
    given[rest[-1]] = (sorted(own), fields)
    return fit(method, params, data, score, fields, *rest)

  with pytest.MonkeyPatch.context() as m:
    m.setattr(jobs.train, 'fit', spy)
    rows = jobs.run(jobs.prepare(c, folder / 'work'))
  return c, folder / 'work', rows, given


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """(config, workdir, rows) of configs/mlm.py."""
  folder = tmp_path_factory.mktemp('alone')
  c = _config(folder, np.random.default_rng(0), 'mlm', **{'generator.steps': 4})
  return c, folder / 'work', jobs.run(jobs.prepare(c, folder / 'work'))


def test_it_is_trained_before_those_who_play_with_it_and_given_to_no_other(game):
  c, workdir, rows, given = game
  assert list(rows) == ['teacher', 'kd', 'mate_kd']
  assert list(given) == ['teacher', 'generator', 'kd', 'mate_kd']
  assert given['generator'][0] == ['student']
  assert given['kd'][0] == ['student', 'teacher']
  assert given['mate_kd'][0] == ['generator', 'student', 'teacher']
  assert given['generator'][1].rate == c.generator.rate != c.train.rate
  assert {p.name for p in (workdir / 'generator').iterdir()} == {
    'run.json', 'result.json', 'log.jsonl', 'checkpoints', 'model',
  }  # fmt: skip
  result = json.loads((workdir / 'generator' / 'result.json').read_text())
  assert list(result['metrics']) == list(result['before']) == ['top1', 'perplexity']
  log = (workdir / 'mate_kd' / 'log.jsonl').read_text()
  assert 'generator/found' in log and 'student/augmented' in log
  card = (workdir / 'generator' / 'model' / 'README.md').read_text()
  assert 'fill-mask' in card and 'classes' not in card


def test_transformers_reads_it_as_a_masked_language_model(game):
  _, workdir, _, _ = game
  toy.check_torch_reads_masked(workdir / 'generator' / 'model')


def test_nothing_finished_is_done_again(game, monkeypatch):
  c, workdir, rows, _ = game
  monkeypatch.setattr('kdjax.train.fit', lambda *a, **k: pytest.fail('trained again'))
  again = jobs.run(jobs.prepare(c, workdir))
  assert again['mate_kd']['validation'] == rows['mate_kd']['validation']


def test_another_generator_is_another_run_for_those_who_play_with_it_alone(game):
  c, workdir, _, _ = game
  other = c.copy_and_resolve_references()
  other.generator.rate = 0.5
  for name in ('teacher', 'kd'):
    assert runs.asked(other, name) == runs.asked(c, name)
  for name in ('generator', 'mate_kd'):
    with pytest.raises(ValueError, match=r'generator.rate: 0.0005 there, 0.5 now'):
      runs.same(workdir / name, runs.asked(other, name))
  with pytest.raises(ValueError, match='generator holds another run'):
    jobs.prepare(other, workdir)
  # How it learns is its own business too; what the teacher learns is not.
  other = c.copy_and_resolve_references()
  other.baselines.mlm.rho, other.teacher.steps, other.student.layers = 0.5, 3, 2
  said = runs.asked(other, 'generator')
  differ = {k for k, v in runs.asked(c, 'generator').items() if said[k] != v}
  assert differ == {'method.rho'}
  assert runs.asked(other, 'mate_kd')['mlm.rho'] == 0.5


def test_alone_it_says_how_well_it_guesses_before_and_after(alone, capsys):
  c, workdir, rows = alone
  assert set(rows) == {'generator'}
  assert set(rows['generator']) == {'parameters', 'before', 'validation'}
  assert not (workdir / 'teacher').exists()
  said = (workdir / 'results.md').read_text()
  assert 'untrained' in said and 'validation perplexity' in said
  scores = inference.evaluation(c, workdir)
  assert scores['validation'] == pytest.approx(rows['generator']['validation'], rel=1e-5)
  assert 'top1' in capsys.readouterr().out
  with pytest.raises(ValueError, match='mlm has no --mode=predict'):
    inference.prediction(c, workdir)
  assert _same(exports.export(c, workdir), workdir / 'generator' / 'model')


def test_a_run_that_was_killed_goes_on_and_ends_the_same(alone, tmp_path, monkeypatch):
  from kdjax import checkpoint

  c, workdir, rows = alone
  save = checkpoint.Store.save

  def dies(self, step, state, *rest, **more):
    if step == 4:
      raise KeyboardInterrupt
    save(self, step, state, *rest, **more)

  with monkeypatch.context() as m:
    m.setattr(checkpoint.Store, 'save', dies)
    with pytest.raises(KeyboardInterrupt):
      jobs.run(jobs.prepare(c, tmp_path))
  assert jobs.run(jobs.prepare(c, tmp_path)) == rows
  assert _same(tmp_path / 'generator' / 'model', workdir / 'generator' / 'model')


def test_one_run_s_generator_is_another_s_start(alone, rng, tmp_path, caplog):
  """Trained by configs/mlm.py, then taken whole, whatever config.generator.layers says."""
  _, workdir, _ = alone
  where = workdir / 'generator' / 'model'
  changes = {'generator.init': str(where), 'generator.finetune': False, 'generator.layers': 9}
  plan = jobs.prepare(_config(tmp_path, rng, **changes), tmp_path / 'work')
  assert runs.order(plan.c) == ['teacher', 'mate_kd']
  with caplog.at_level('INFO', 'kdjax'):
    got = jobs._ready(plan, 'generator')  # not trained, but scored: noise would be seen
  want, got = net.split(hf.load(where, head='mlm')[0])[1], net.split(got.module)[1]
  assert jax.tree.all(jax.tree.map(np.array_equal, got, want))
  assert 'generator: top1' in caplog.text


def test_a_dry_run_shows_it(rng, tmp_path, capsys):
  for method, reader in (('mate_kd', 'student'), ('mlm', 'generator')):
    dry.show(jobs.prepare(_config(tmp_path, rng, method), tmp_path / 'w', str(tmp_path / 'cache')))
    said = capsys.readouterr().out
    assert f'rows as the {reader} reads them' in said
    assert '  generator: bert, 1 layers x 16' in said and '  generator: 2 steps' in said


def _refused(folder, rng, match, method='mate_kd', **changes):
  with pytest.raises(ValueError, match=match):
    jobs.prepare(_config(folder, rng, method, **changes), folder / 'work')


def test_a_head_that_would_write_noise_must_be_asked_for(rng, tmp_path):
  said = 'no masked-LM head.*uniform noise.*finetune=True.*config.generator.fresh_head=True'
  for changes, match in (({}, said), ({'generator.init': 'random'}, 'random weights')):
    changes |= {'generator.finetune': False}
    _refused(tmp_path, rng, match, **changes)
    jobs.prepare(
      _config(tmp_path, rng, **changes, **{'generator.fresh_head': True}), tmp_path / 'work'
    )
  # One with a head needs no leave.
  changes = {'generator.init': str(_writer(tmp_path / 'writer')), 'generator.finetune': False}
  plan = jobs.prepare(_config(tmp_path, rng, **changes), tmp_path / 'work')
  assert plan.generator.module.spec.layers == 2 and plan.env.mask_id == toy.SPECIAL.index('[MASK]')


def test_sizes_are_as_asked(rng, tmp_path):
  cases = (
    ({'generator.layers': 0}, (2, 16)),
    ({'generator.layers': 1}, (1, 16)),
    ({'generator.init': 'random', 'generator.layers': 3, 'generator.width': 8}, (3, 8)),
  )
  for changes, want in cases:
    plan = jobs.prepare(_config(tmp_path, rng, 'mlm', **changes), tmp_path / 'work')
    spec = plan.generator.module.spec
    assert (spec.layers, spec.width, spec.head) == (*want, 'mlm')
  _refused(tmp_path, rng, r'config.generator.layers=9, but .* has 2; 0', **{'generator.layers': 9})
  _refused(tmp_path, rng, 'config.generator.layers=-1 must be', **{'generator.layers': -1})


def test_other_token_ids_are_refused(rng, tmp_path):
  other = str(_writer(tmp_path / 'other', words=[*reversed(toy.WORDS)]))
  said = 'generator writes for teacher and student, but the tokenizers disagree on'
  _refused(tmp_path, rng, said, **{'generator.init': other})
  said = 'one text for teacher and student, but the tokenizers disagree'
  _refused(tmp_path, rng, said, **{'student.init': other})


def test_a_tokenizer_without_a_mask_is_refused(rng, tmp_path):
  where = _writer(tmp_path / 'bare')
  bare = toy.tokenizer()
  bare.mask_token = None
  bare.save_pretrained(where)
  changes = {'generator.init': str(where)}
  for method in ('mate_kd', 'mlm'):
    _refused(tmp_path, rng, 'has no mask token.*config.generator.init', method, **changes)
  # Who wants no generator does not look for one.
  jobs.prepare(_config(tmp_path, rng, 'kd', **{'generator.init': 'nowhere'}), tmp_path / 'work')


def test_what_makes_no_sense_is_refused_in_a_line(rng, tmp_path):
  _refused(tmp_path, rng, 'mlm trains a generator, no classifier', 'kd', compare='mlm')
  _refused(tmp_path, rng, 'mlm trains a generator, no classifier', 'mlm', compare='kd')
  _refused(
    tmp_path, rng, 'leaves method mlm nothing to train', 'mlm', **{'generator.finetune': False}
  )
  _refused(tmp_path, rng, 'method.rho=0.0 must be above 0', **{'baselines.mlm.rho': 0.0})
  _refused(tmp_path, rng, 'no step', **{'generator.steps': 0, 'generator.epochs': 0.0})
  c = _config(tmp_path, rng, 'mlm')
  with pytest.raises(ValueError, match=r'no model in .*generator/model: train first'):
    inference.evaluation(c, tmp_path / 'work')
  with c.unlocked():
    c.eval.model = str(tmp_path / 'base')
  with pytest.raises(ValueError, match='is no masked language model: head'):
    inference.evaluation(c, tmp_path / 'work')
