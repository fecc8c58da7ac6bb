"""What a dry run says: copies, cut texts, a wrong teacher, times."""

import numpy as np
import pytest
import transformers

from kdjax import doubts, dry, estimate, jobs, tasks
from kdjax.data import sources
from tests import toy

SPEC = tasks.Spec('own', labels=('a', 'b', 'c'))


def _logits(decision, classes):
  return 5.0 * np.eye(classes, dtype=np.float32)[decision]


def test_a_teacher_that_numbers_its_classes_otherwise_is_found(rng):
  label = rng.integers(0, 3, 200).astype(np.int32)
  right = np.where(rng.random(200) < 0.9, label, rng.integers(0, 3, 200))
  assert doubts.of(_logits(right, 3), label, SPEC) == []
  turned = np.array([1, 2, 0])[right]  # says b where it means a
  said = ' '.join(doubts.of(_logits(turned, 3), label, SPEC))
  share = np.bincount(label).max() / 200
  assert f'right on {(turned == label).mean():.1%} of 200 rows' in said and f'{share:.1%}' in said
  assert f'right on {(right == label).mean():.1%} with its classes taken for (c, a, b)' in said
  constant = doubts.of(_logits(np.zeros(200, int), 3), label, SPEC)
  assert 'instead of' not in ' '.join(constant)  # no order helps who always says the same
  by_chance = doubts.of(_logits(rng.integers(0, 3, 200), 3), label, SPEC)
  assert 'instead of' not in ' '.join(by_chance)


def test_label_sets_and_scores_are_doubted_too(rng):
  spec = tasks.Spec('own', 'multilabel', labels=('a', 'b', 'c'))
  label = (rng.random((200, 3)) < (0.6, 0.3, 0.1)).astype(np.float32)
  assert doubts.of(8 * label - 4, label, spec) == []
  said = doubts.of(8 * label[:, [2, 0, 1]] - 4, label, spec)
  assert any('1.000 with its classes taken for (c, a, b)' in one for one in said)
  spec = tasks.Spec('own', 'regression')
  score = rng.normal(2.5, 1, 200).astype(np.float32)
  near = (score + rng.normal(0, 0.3, 200)).astype(np.float32)
  assert doubts.of(near[:, None], score, spec) == []
  assert 'correlation of -0.9' in doubts.of(-near[:, None], score, spec)[0]
  assert 'another scale' in doubts.of(10 * near[:, None], score, spec)[0]


def _table(rows):
  texts, label = zip(*rows, strict=True)
  return sources.Table(list(texts), None, np.int32(label), np.arange(len(rows), dtype=np.int32))


def test_copies_are_counted_within_splits_and_across():
  train = _table([('A b', 0), ('a  B', 1), ('a b', 0), ('c', 1), ('d', 0)])
  validation = _table([('a b', 0), ('D', 1), ('e', 0), ('e', 0)])
  assert dry._copies(dict(train=train, validation=validation)) == [
    'train: of 5 rows 2 repeat another; 1 texts have several labels',
    'validation: of 4 rows 1 repeat another; 2 are in train too (50.0%)',
  ]
  assert dry._copies(dict(train=_table([('a', 0), ('b', 1)]))) == [
    'no row repeats another, in one split or in two'
  ]


def test_a_dry_run_says_it_all_and_leaves_the_folder_alone(rng, tmp_path, capsys, monkeypatch):
  c = toy.config(
    'kd', tmp_path, rng, **{'teacher.finetune': False, 'data.max_length': 6, 'mesh.data': 1}
  )
  config = transformers.AutoConfig.from_pretrained(tmp_path / 'base')
  assert config.id2label == {0: 'LABEL_0', 1: 'LABEL_1'}
  plan = jobs.prepare(c, tmp_path / 'work', str(tmp_path / 'cache'))
  wrong = lambda *args: _logits(1 - args[2].label, 2)  # noqa: E731
  with monkeypatch.context() as patch:
    patch.setattr('kdjax.evaluate.logits', wrong)
    lines = dry._teacher(plan)
  assert lines[0] == 'teacher on 40 rows of validation: accuracy 0.000, f1_macro 0.000'
  assert 'WARNING: the teacher is right on 0.0% of 40 rows' in lines[1]
  assert 'WARNING: the teacher is right on 100.0% with its classes taken for (pos, neg)' in lines[2]

  dry.show(plan)
  said = capsys.readouterr().out
  assert not (tmp_path / 'work').exists()
  assert 'classes: 0 neg, 1 pos' in said and 'teacher on 40 rows of validation' in said
  texts = plan.text.splits['train'].first
  longer = np.mean([len(t.split()) + 2 > 6 for t in texts])
  assert f'{longer:.1%} are longer than 6, and cut' in said
  assert f'finetune/: model ({4 * plan.student.parameters / 1e3:.1f} kB)' in said
  found = [line for line in said.splitlines() if ' s a step of 16 x 6' in line]
  assert len(found) == 2 and all('to compile 1 program,' in line for line in found)
  assert 'all: about ' in said


def test_rows_without_a_label_are_told_apart(rng, tmp_path, capsys):
  (tmp_path / 'more.txt').write_text('a film\nthe plot\n')
  c = toy.config('kd', tmp_path, rng, **{'data.unlabelled': str(tmp_path / 'more.txt')})
  dry.show(jobs.prepare(c, tmp_path / 'work', str(tmp_path / 'cache')), timed=False)
  said = capsys.readouterr().out
  assert 'train: 98 rows, 96 with a label; neg' in said
  assert '(none): [CLS] a film [SEP]' in said
  assert 'of 98 rows 96 have a gold label: 15.7 of a batch of 16' in said


@pytest.mark.parametrize('kind', ['regression', 'multilabel'])
def test_other_kinds_are_shown(kind, capsys):
  spec = tasks.Spec('own', kind, labels=() if kind == 'regression' else ('x', 'y'))
  label = (
    np.float32([0.5, 2.0, np.nan])
    if kind == 'regression'
    else np.float32([[1, 0], [1, 1], [np.nan, np.nan]])
  )
  want = {
    'regression': ', 2 with a label; scores from 0.5 to 2, median 1.25',
    'multilabel': ', 2 with a label; x 100%, y 50%',
  }[kind]
  assert dry._balance(label, spec) == want
  shown = [dry._label(value, spec) for value in label]
  assert shown == (['0.500', '2.000', '(none)'] if kind == 'regression' else ['x', 'x|y', '(none)'])


def test_a_checkpoint_has_all_that_is_trained(rng, tmp_path):
  c = toy.config('mate_kd', tmp_path, rng, compare='')
  plan = jobs.prepare(c, tmp_path / 'work', str(tmp_path / 'cache'))
  trained = plan.student.parameters + plan.generator.parameters
  found = estimate.layout(plan, 'mate_kd')[1]
  assert 3 * 4 * trained <= found < 3 * 4 * trained + 1000  # and Adam's two moments


@pytest.mark.slow
@pytest.mark.parametrize(
  'method, changes', [('mate_kd', {}), ('mlm_kd', {}), ('codir', {}), ('kd', {'seeds': 2})], ids=str
)
def test_games_guessers_and_many_seeds_are_timed(rng, tmp_path, capsys, method, changes):
  c = toy.config(
    method, tmp_path, rng, compare='', **{'train.steps': 120, 'mesh.data': 1} | changes
  )
  dry.show(jobs.prepare(c, tmp_path / 'work', str(tmp_path / 'cache')))
  said = capsys.readouterr().out
  assert f'  {method}: about ' in said and 'all: about ' in said
  if method == 'mate_kd':
    assert 'generator 0' in said and 'student 0' in said and 'to compile 2 programs' in said
