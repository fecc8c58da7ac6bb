"""Distillation of masked language models, from files of text to a folder that others begin from."""

import gzip
import json

import jax
import numpy as np
import pytest

from kdjax import dry, exports, inference, jobs, net, runs
from kdjax.models import hf
from tests import toy


def _text(path, rng, n: int = 120):
  """Lines of toy text; a blank one among them."""
  lines = [' '.join(rng.choice(toy.WORDS, rng.integers(3, 30))) for _ in range(n)]
  path.write_text('\n'.join(['', *lines]) + '\n')
  return path


def _config(folder, rng, method='mlm_kd', **changes):
  """A toy task and a corpus beside it; with task=text, the corpus alone."""
  small = {'train.steps': 4, 'teacher.steps': 4, 'generator.steps': 4}
  small['data.unlabelled'] = str(_text(folder / 'corpus.txt', rng))
  if changes.pop('task', '') == 'text':
    small |= {'task.name': 'text', 'data.train': '', 'data.validation': ''}
  return toy.config(method, folder, rng, **small | changes)


def _params(folder, head='mlm'):
  return net.split(hf.load(folder, head=head)[0])[1]


def _same(one, two):
  return jax.tree.all(jax.tree.map(np.array_equal, one, two))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(config, workdir, rows): the contrast and plain distillation, of a task's text and a corpus."""
  folder = tmp_path_factory.mktemp('pretrain')
  changes = {'compare': 'mlm_kd', 'data.neighbours': 4}
  c = _config(folder, np.random.default_rng(0), 'codir_pre', **changes)
  return c, folder / 'work', jobs.run(jobs.prepare(c, folder / 'work'))


def test_a_run_leaves_a_teacher_students_and_a_table_of_guesses(run):
  _, workdir, rows = run
  assert list(rows) == ['teacher', 'mlm_kd', 'codir_pre']
  for name, row in rows.items():
    assert set(row) == {'parameters', 'before', 'validation'}
    assert list(row['validation']) == ['top1', 'perplexity']
    card = (workdir / name / 'model' / 'README.md').read_text()
    assert 'fill-mask' in card and 'classes' not in card
  assert rows['codir_pre']['parameters'] < rows['teacher']['parameters']
  # Both students begin from the same layers of the same teacher.
  assert rows['codir_pre']['before'] == rows['mlm_kd']['before']
  said = (workdir / 'results.md').read_text()
  assert 'teacher, untrained' in said and 'codir_pre, untrained' in said
  log = [json.loads(s) for s in (workdir / 'codir_pre' / 'log.jsonl').read_text().splitlines()]
  found = {k for row in log for k in row}
  wanted = ('hard', 'soft', 'contrast', 'top1', 'agree', 'ahead', 'overflow', 'loss', 'grad_norm')
  assert {f'student/{k}' for k in wanted} <= found
  assert 'contrast' not in (workdir / 'mlm_kd' / 'log.jsonl').read_text()


def test_the_teacher_learns_to_guess_before_it_teaches(run):
  c, workdir, rows = run
  assert runs.order(c) == ['teacher', 'mlm_kd', 'codir_pre']
  asked = json.loads((workdir / 'teacher' / 'run.json').read_text())
  assert asked['method.name'] == 'mlm'
  trained = _params(workdir / 'teacher' / 'model')
  assert 'pooler' not in str(jax.tree.structure(trained))
  assert rows['teacher']['before'] != rows['teacher']['validation']


def test_another_way_for_the_teacher_to_learn_is_another_run_for_its_students(rng, tmp_path):
  c = _config(tmp_path, rng, 'codir_pre', compare='mlm_kd')
  other = c.copy_and_resolve_references()
  other.baselines.mlm.rho = 0.5
  for name, key in (('teacher', 'method.rho'), ('mlm_kd', 'mlm.rho'), ('codir_pre', 'mlm.rho')):
    one, two = runs.asked(c, name), runs.asked(other, name)
    assert {k for k in one if one[k] != two[k]} == {key}


def test_training_reads_the_corpus_and_the_task_and_scores_the_task_alone(run):
  c, workdir, _ = run
  plan = jobs.prepare(c, workdir)
  train, held = plan.data['train'], plan.data['validation']
  assert train.group == 4 and len(train.index) > 96
  assert (train.index == np.arange(len(train.index))).all()
  last = plan.text.origin
  assert '120 documents' in last and '96 rows of the task' in last
  assert len(held.index) == 40
  # The corpus comes first, packed; the task's own rows are as they were.
  packed = len(train.index) - 96
  assert (train.tokens.length[:packed] == 12).all() and (train.tokens.length[packed:] < 12).any()


def test_transformers_reads_the_student_as_a_masked_language_model(run):
  _, workdir, _ = run
  toy.check_torch_reads_masked(workdir / 'mlm_kd' / 'model')


@pytest.mark.parametrize('method', ['finetune', 'codir', 'mlm_kd'])
def test_any_other_config_begins_from_the_student(run, rng, tmp_path, method):
  _, workdir, _ = run
  where = workdir / 'codir_pre' / 'model'
  changes = {'student.init': str(where), 'compare': '', 'train.steps': 2, 'teacher.steps': 2}
  plan = jobs.prepare(toy.config(method, tmp_path, rng, **changes), tmp_path / 'work')
  want, got = _params(where), net.split(plan.student.module)[1]
  assert _same(*({k: p[k] for k in ('embeddings', 'layers')} for p in (want, got)))
  # A classifier's head is drawn anew; another masked language model keeps this one's.
  assert plan.student.module.spec.head == ('mlm' if method == 'mlm_kd' else 'classify')
  assert method != 'mlm_kd' or _same(want['head'], got['head'])
  if method == 'codir':
    rows = jobs.run(plan)
    assert set(rows) == {'teacher', 'codir'}


def test_it_is_a_generator_too(run, rng, tmp_path):
  _, workdir, _ = run
  where = workdir / 'mlm_kd' / 'model'
  changes = {'generator.init': str(where), 'generator.finetune': False, 'compare': ''}
  plan = jobs.prepare(toy.config('mate_kd', tmp_path, rng, **changes), tmp_path / 'work')
  assert _same(net.split(plan.generator.module)[1], _params(where))


def test_a_finished_run_stands_and_its_modes_work(run, monkeypatch, tmp_path, capsys):
  c, workdir, rows = run
  with monkeypatch.context() as m:
    m.setattr('kdjax.train.fit', lambda *a, **k: pytest.fail('trained again'))
    assert jobs.run(jobs.prepare(c, workdir)) == rows
  with monkeypatch.context() as m:  # the corpus is not scored, hence not read
    m.setattr('kdjax.data.corpus.read', lambda *a: pytest.fail('the corpus was read'))
    scores = inference.evaluation(c, workdir)
  assert scores['validation'] == pytest.approx(rows['codir_pre']['validation'], rel=1e-5)
  with pytest.raises(ValueError, match='method mlm_kd has no --mode=predict'):
    inference.prediction(c, workdir)
  assert _same(_params(exports.export(c, workdir)), _params(workdir / 'codir_pre' / 'model'))
  capsys.readouterr()
  dry.show(jobs.prepare(c, tmp_path / 'dry', str(tmp_path / 'cache')))
  said = capsys.readouterr().out
  assert 'mlm_kd: 4 steps' in said and '(none): [CLS]' in said


@pytest.mark.slow  # of classifiers, test_jobs.py does it always
def test_a_run_that_was_killed_goes_on_and_ends_the_same(run, tmp_path, monkeypatch):
  from kdjax import checkpoint

  c, workdir, rows = run
  save, died = checkpoint.Store.save, []

  def dies(self, step, state, *rest, **more):
    if step == 4 and 'contrast_heads' in getattr(state, 'params', {}) and not died:
      died.append(step)
      raise KeyboardInterrupt
    save(self, step, state, *rest, **more)

  monkeypatch.setattr(checkpoint.Store, 'save', dies)
  with pytest.raises(KeyboardInterrupt):
    jobs.run(jobs.prepare(c, tmp_path))
  assert jobs.run(jobs.prepare(c, tmp_path)) == rows
  assert _same(*(_params(w / 'codir_pre' / 'model') for w in (tmp_path, workdir)))


def test_text_alone_is_a_task_and_holds_documents_out(rng, tmp_path):
  changes = {'task': 'text', 'compare': '', 'data.validation_rows': 9}
  c = _config(tmp_path, rng, **changes)
  plan = jobs.prepare(c, tmp_path / 'work')
  assert list(plan.data) == ['validation', 'train'] and len(plan.data['validation'].index) == 9
  rows = jobs.run(plan)
  assert set(rows) == {'teacher', 'mlm_kd'}
  scores = inference.evaluation(c, tmp_path / 'work')  # of the same documents
  assert scores['validation'] == pytest.approx(rows['mlm_kd']['validation'], rel=1e-5)


def test_a_share_of_rows_with_labels_is_refused_where_there_are_none(rng, tmp_path):
  c = _config(tmp_path, rng, task='text', compare='', **{'data.train_size': 9})
  with pytest.raises(ValueError, match='train_size=9 are of rows with labels, and there are none'):
    jobs.prepare(c, tmp_path / 'work')


def test_text_may_name_a_validation_file_and_mlm_reads_it_alone(rng, tmp_path):
  path = tmp_path / 'more.jsonl.gz'
  with gzip.open(path, 'wt') as f:
    f.writelines(json.dumps(dict(said=text)) + '\n' for text, _ in toy.rows(rng, 60))
  held = tmp_path / 'held.csv'
  toy.file(held, rng, 7, columns=('said', 'label'))
  changes = {'data.unlabelled': str(path), 'data.text': 'said', 'data.pack': False}
  c = _config(tmp_path, rng, 'mlm', task='text', **changes)
  with c.unlocked():
    c.data.validation = str(held)
  plan = jobs.prepare(c, tmp_path / 'work')
  assert len(plan.data['train'].index) == 60 and len(plan.data['validation'].index) == 7
  assert set(jobs.run(plan)) == {'generator'}


def test_a_teacher_that_is_one_is_taken_as_it_is(run, rng, tmp_path):
  _, workdir, rows = run
  where = str(workdir / 'teacher' / 'model')
  changes = {'teacher.init': where, 'teacher.finetune': False, 'compare': ''}
  found = jobs.run(jobs.prepare(_config(tmp_path, rng, **changes), tmp_path / 'work'))
  assert not (tmp_path / 'work' / 'teacher').exists()
  assert set(found['teacher']) == {'parameters', 'validation'}
  assert found['teacher']['parameters'] == rows['teacher']['parameters']


def _refused(folder, rng, match, method='mlm_kd', **changes):
  with pytest.raises(ValueError, match=match):
    jobs.prepare(_config(folder, rng, method, **changes), folder / 'work')
  assert not (folder / 'work' / 'teacher').exists()


def test_what_makes_no_sense_is_refused_in_a_line(rng, tmp_path):
  no = lambda match, method='mlm_kd', **changes: _refused(  # noqa: E731
    tmp_path, rng, match, method, **{'compare': ''} | changes
  )
  no('has no masked-LM head.*config.teacher.finetune=True', **{'teacher.finetune': False})
  no('mlm_kd, .*classifiers|kd and mlm_kd train', compare='kd')
  no('finetune learns from gold labels alone.*has none: take a method', 'finetune')
  no('kd learns from labels', 'kd', task='text')
  no('task text is read from config.data.unlabelled, which is empty', task='text',
     **{'data.unlabelled': ''})  # fmt: skip
  no('config.data.neighbours=4 is of config.data.unlabelled, which is empty',
     **{'data.unlabelled': '', 'data.neighbours': 4})  # fmt: skip
  no('batch_size=16 does not hold whole groups of config.data.neighbours=3',
     **{'data.neighbours': 3})  # fmt: skip
  no('config.train.accumulate=2 deals the rows', **{'data.neighbours': 4, 'train.accumulate': 2})
  no('config.data.neighbours=0 must be at least 1', **{'data.neighbours': 0})
  no('nowhere.*no such file', **{'data.unlabelled': str(tmp_path / 'nowhere')})
  other = toy.model(tmp_path / 'other', words=[*reversed(toy.WORDS)])
  no('guesses of the same tokens, but the tokenizers disagree', **{'student.init': str(other)})
  no('temperature=0.0 must be above 0', **{'method.temperature': 0.0})
