"""Sets from elsewhere: what is read, how classes are merged, and what is said of bad files."""

import pathlib

import numpy as np
import pytest

from kdjax.data import ood

_DIR = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'ood'


def _hans(folder: pathlib.Path, rows: str, head='premise\thypothesis\tlabel\theuristic') -> None:
  (folder / 'hans').mkdir(exist_ok=True)
  (folder / 'hans' / 'validation.tsv').write_text(f'{head}\n{rows}')


def test_three_classes_are_merged_after_the_model_has_chosen(tmp_path):
  _hans(tmp_path, 'a b\tb\t0\tlexical\na b\tc\tnon-entailment\tlexical\na\tb\t1\tsubsequence\n')
  test = ood.read('hans', str(tmp_path))
  assert test.table.label.tolist() == [0, 1, 1] and test.table.second == ['b', 'c', 'b']
  # Entailment, neutral, contradiction. Of the second row the two others together outweigh
  # entailment; it has the highest logit, and that decides.
  logits = np.array([[1.0, 0, 0], [1.0, 0.9, 0.9], [0, 0, 1.0]])
  decision = ood.decide(logits, test.merge)
  assert decision.tolist() == [0, 0, 1]
  assert ood.scores(decision, test.table.label, test.classes, test.group) == {
    'accuracy': pytest.approx(2 / 3),
    'entailment': 1.0,
    'non-entailment': 0.5,
    'lexical, entailment': 1.0,
    'lexical, non-entailment': 0.0,
    'subsequence, non-entailment': 1.0,
  }


def test_every_set_merges_the_classes_of_its_task():
  from kdjax import tasks

  for name, own in ood.SETS.items():
    labels = tasks.GLUE[own.task].labels
    assert len(own.merge) == len(labels) and set(own.merge) == set(range(len(own.classes))), name
    if len(own.classes) == len(labels):
      assert own.classes == labels and own.merge == tuple(range(len(labels)))
    else:
      assert (own.merge[0], labels[0]) == (0, 'entailment')


def test_only_the_sets_of_a_task_are_read():
  wanted = 'imdb, hans,paws_wiki'
  assert ood.names(wanted, 'mnli') == ['hans'] and ood.names(wanted, 'cola') == []
  with pytest.raises(ValueError, match=r'config.grid.ood names han: none of imdb'):
    ood.names('han', 'mnli')


def test_a_choice_of_rows_is_seeded_and_keeps_its_groups(tmp_path):
  _hans(tmp_path, ''.join(f'p{i}\th{i}\t{i % 2}\tg{i}\n' for i in range(50)))
  few = ood.read('hans', str(tmp_path), rows=10)
  assert len(few.table.first) == 10
  assert [f'p{g[1:]}' for g in few.group] == few.table.first
  assert ood.read('hans', str(tmp_path), rows=10).table.first == few.table.first


def test_bad_sets_are_refused_by_name_and_remedy(tmp_path):
  with pytest.raises(ValueError, match=r'hans/: no validation or test in .*ood_dir'):
    ood.read('hans', str(tmp_path))
  with pytest.raises(ValueError, match=r'hans is on no hub.*config.grid.ood_dir'):
    ood.read('hans', '')
  _hans(tmp_path, 'a\tb\t0\n', 'premise\thypothesis\tlabel')
  with pytest.raises(ValueError, match=r'validation.tsv: no column heuristic'):
    ood.read('hans', str(tmp_path))
  _hans(tmp_path, 'a\tb\t2\tlexical\n')
  with pytest.raises(ValueError, match=r"row 1 is '2'.*entailment, non-entailment"):
    ood.read('hans', str(tmp_path))


@pytest.mark.skipif(not _DIR.is_dir(), reason=f'no {_DIR}')
@pytest.mark.parametrize('name', [name for name in ood.SETS if name != 'hans'])
def test_a_published_set_has_all_of_its_classes(name):
  test = ood.read(name, str(_DIR))
  assert set(test.table.label) == set(range(len(test.classes)))
  assert (test.group is not None) == (name == 'hans_regenerated')
  assert (test.table.second is None) == (ood.SETS[name].task == 'sst2')
