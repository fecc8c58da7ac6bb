import collections
import logging

import numpy as np
import pytest
from data_config import jsonl, make, parquet

from kdjax import tasks
from kdjax.data import sources

_SPEC = tasks.Spec('own')
_PAIR = tasks.Spec('own', columns=('a', 'b'), label='y', labels=('no', 'yes'))


def _rows(rng, n, classes=('x', 'y', 'z')):
  return [
    {'text': f'text {i} {rng.integers(1000)}', 'label': str(rng.choice(classes))} for i in range(n)
  ]


def test_pairs_are_read_by_the_names_of_their_columns(tmp_path):
  path = tmp_path / 'train.csv'
  path.write_text('y,b,other,a\nyes,B1,-,A1\nno,B2,-,A2\n')
  table = sources.read(make(train=path, validation=path), _PAIR).splits['train']
  assert (table.first, table.second) == (['A1', 'A2'], ['B1', 'B2'])
  np.testing.assert_array_equal(table.label, [1, 0])
  np.testing.assert_array_equal(table.index, [0, 1])
  assert table.label.dtype == table.index.dtype == np.int32


def test_class_names_are_read_from_train_and_logged(tmp_path, caplog):
  train = jsonl(tmp_path / 'a.jsonl', [{'text': 't', 'label': v} for v in (10, 9, 10)])
  test = jsonl(tmp_path / 'b.jsonl', [{'text': 't', 'label': 10}])
  with caplog.at_level(logging.INFO, 'kdjax'):
    text = sources.read(make(train=train, validation=train, test=test), _SPEC)
  assert text.labels == ('9', '10')
  assert '9, 10' in caplog.text
  np.testing.assert_array_equal(text.splits['train'].label, [1, 0, 1])
  np.testing.assert_array_equal(text.splits['test'].label, [1])


def test_a_test_file_may_lack_the_label_column(tmp_path):
  train = jsonl(tmp_path / 'a.jsonl', [{'text': 't', 'label': v} for v in 'ab'])
  test = jsonl(tmp_path / 'b.jsonl', [{'text': 't'}])
  text = sources.read(make(train=train, validation=train, test=test), _SPEC)
  np.testing.assert_array_equal(text.splits['test'].label, [-1])


def test_validation_is_held_out_of_train_by_class_and_by_seed(tmp_path, rng):
  rows = _rows(rng, 80)
  path = jsonl(tmp_path / 'a.jsonl', rows)
  text = sources.read(make(train=path, seed=3), _SPEC)
  assert list(text.splits) == ['train', 'validation']
  train, held = text.splits['train'], text.splits['validation']
  assert len(held.first) == 20
  assert sorted([*train.index, *held.index]) == list(range(80))
  assert [rows[i]['text'] for i in held.index] == held.first
  whole = collections.Counter(row['label'] for row in rows)
  for i, name in enumerate(text.labels):
    assert abs((held.label == i).sum() - whole[name] / 4) <= 1
  again = sources.read(make(train=path, seed=3), _SPEC).splits['validation']
  other = sources.read(make(train=path, seed=4), _SPEC).splits['validation']
  assert again.first == held.first != other.first


def test_regression_has_scores_and_no_class_names(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('text,label\na,1.5\nb,-2\n')
  spec = tasks.Spec('own', 'regression')
  text = sources.read(make(train=path, validation=path), spec)
  assert text.labels == ()
  np.testing.assert_array_equal(text.splits['train'].label, np.float32([1.5, -2]))


def test_multilabel_columns_are_lists_bars_or_one_column_per_class(tmp_path):
  want = np.float32([[1, 1], [0, 0], [0, 1]])
  lists = jsonl(
    tmp_path / 'a.jsonl',
    [{'text': 't', 'label': v} for v in (['red', 'blue'], [], ['red'])],
  )
  bars = tmp_path / 'b.csv'
  bars.write_text('text,label\nt,red|blue\nt,\nt,red\n')
  each = parquet(tmp_path / 'c.parquet', text=['t'] * 3, blue=[1, 0, 0], red=[1, 0, 1])
  for path, label in ((lists, 'label'), (bars, 'label'), (each, 'blue, red')):
    spec = tasks.Spec('own', 'multilabel', label=label)
    text = sources.read(make(train=path, validation=path), spec)
    assert text.labels == ('blue', 'red')
    np.testing.assert_array_equal(text.splits['train'].label, want)


@pytest.mark.parametrize(
  'row, said',
  [
    ({'text': None, 'label': 'x'}, "column 'text': row 2 is None, not text"),
    ({'text': 3, 'label': 'x'}, "column 'text': row 2 is 3, not text"),
    ({'text': 'a', 'label': None}, "column 'label': row 2 has no label"),
    ({'text': 'a'}, "column 'label': row 2 has no label"),
    ({'text': 'a', 'label': -1}, "column 'label': row 2 has no label"),
  ],
)
def test_bad_rows_are_named_by_file_column_and_number(tmp_path, row, said):
  good = [{'text': 'a', 'label': 'x'}, {'text': 'a', 'label': 'y'}]
  bad = jsonl(tmp_path / 'bad.jsonl', [good[0], row, good[1]])
  with pytest.raises(ValueError, match=f'bad.jsonl: {said}'):
    sources.read(make(train=bad, validation=bad), _SPEC)


def test_a_label_that_train_lacks_is_an_error_in_validation(tmp_path):
  train = jsonl(tmp_path / 'a.jsonl', [{'text': 't', 'label': v} for v in 'ab'])
  bad = jsonl(tmp_path / 'b.jsonl', [{'text': 't', 'label': v} for v in 'abc'])
  with pytest.raises(ValueError, match=r"b.jsonl: column 'label': row 3 is 'c'.*\(a, b\)"):
    sources.read(make(train=train, validation=bad), _SPEC)


def test_a_missing_column_is_named_beside_those_that_exist(tmp_path):
  path = jsonl(tmp_path / 'a.jsonl', [{'sentence': 't', 'label': 1}])
  with pytest.raises(ValueError, match=r"a.jsonl: no column 'text'; it has 'sentence', 'label'"):
    sources.read(make(train=path), _SPEC)


@pytest.mark.parametrize('kind, names', [('classes', ('a', 'b')), ('regression', ())])
def test_only_a_test_split_may_lack_the_label_column(tmp_path, kind, names):
  path = jsonl(tmp_path / 'a.jsonl', [{'text': 't'}])
  with pytest.raises(ValueError, match=r"a.jsonl: no column 'label'; it has 'text'"):
    sources.read(make(train=path, validation=path), tasks.Spec('own', kind, labels=names))


def test_one_class_is_no_task(tmp_path):
  path = jsonl(tmp_path / 'a.jsonl', [{'text': 't', 'label': 'a'}] * 3)
  with pytest.raises(ValueError, match=r"1 distinct labels \['a'\]; at least 2"):
    sources.read(make(train=path), _SPEC)


def test_one_row_cannot_be_cut_into_two_splits(tmp_path):
  path = jsonl(tmp_path / 'a.jsonl', [{'text': 't', 'label': 1.0}])
  with pytest.raises(ValueError, match=r'a.jsonl: 1 rows cannot be cut.*config.data.validation'):
    sources.read(make(train=path), tasks.Spec('own', 'regression'))


def test_an_unknown_source_and_empty_fields_name_the_remedy(tmp_path):
  with pytest.raises(ValueError, match=r"'web'; it is one of docs, files, hub, local, tfds"):
    sources.read(make(source='web'), _SPEC)
  with pytest.raises(ValueError, match=r'config.data.train, which is empty'):
    sources.read(make(), _SPEC)
  with pytest.raises(ValueError, match=r'set config.data.dir'):
    sources.read(make(source='local'), tasks.GLUE['rte'])


@pytest.mark.parametrize('source', ['docs', 'digits', 'local', 'hub', 'tfds'])
def test_a_split_that_the_source_does_not_read_is_refused(tmp_path, source):
  c = make(source=source, dir=tmp_path, test='mine.csv')
  spec = tasks.Spec('digits', shape=()) if source == 'digits' else tasks.GLUE['rte']
  said = f"config.data.test='mine.csv' is not read: .*config.data.source='{source}'"
  with pytest.raises(ValueError, match=said):
    sources.read(c, spec)


def test_a_folder_gives_the_splits_that_are_there(tmp_path):
  columns = dict(premise=['p'], hypothesis=['h'])
  for name, label in (('train', 2), ('validation_matched', 0), ('test_matched', -1)):
    parquet(tmp_path / 'mnli' / f'{name}.parquet', **columns, label=[label])
  text = sources.read(make(source='local', dir=tmp_path), tasks.GLUE['mnli'])
  got = {name: table.label.tolist() for name, table in text.splits.items()}
  assert got == {'train': [2], 'validation_matched': [0], 'test_matched': [-1]}


def test_a_folder_without_a_needed_split_is_an_error_that_names_the_file(tmp_path):
  spec = tasks.GLUE['rte']
  with pytest.raises(ValueError, match=r'rte: no such folder'):
    sources.read(make(source='local', dir=tmp_path), spec)
  columns = dict(sentence1=['a'], sentence2=['b'], label=[1])
  parquet(tmp_path / 'rte' / 'validation.parquet', **columns)
  with pytest.raises(ValueError, match=r'rte/train.parquet: no such split of rte .*validation'):
    sources.read(make(source='local', dir=tmp_path), spec)
  (tmp_path / 'rte' / 'validation.parquet').rename(tmp_path / 'rte' / 'train.parquet')
  with pytest.raises(ValueError, match=r'rte/validation.parquet: no such split of rte'):
    sources.read(make(source='local', dir=tmp_path), spec)


def test_glue_says_minus_one_where_a_score_is_not_public(tmp_path):
  columns = dict(sentence1=['a'], sentence2=['b'])
  for name, score in (('train', 4.5), ('validation', 0.0), ('test', -1.0)):
    parquet(tmp_path / 'stsb' / f'{name}.parquet', **columns, label=[score])
  text = sources.read(make(source='local', dir=tmp_path), tasks.GLUE['stsb'])
  assert np.isnan(text.splits['test'].label).all()


@pytest.mark.parametrize('kind', ['classes', 'regression'])
def test_subsets_are_nested_seeded_and_in_order(rng, kind):
  n = 97
  label = rng.integers(0, 3, n).astype(np.int32 if kind == 'classes' else np.float32)
  table = sources.Table([str(i) for i in range(n)], None, label, np.arange(n, dtype=np.int32))
  seed = int(rng.integers(1000))
  before: set[int] = set()
  for fraction in (0.1, 0.3, 0.7, 1.0):
    few = sources.subset(table, fraction, 0, seed, kind)
    assert len(few.first) == round(fraction * n)
    assert list(few.index) == sorted(few.index)
    assert [int(t) for t in few.first] == list(few.index)
    np.testing.assert_array_equal(few.label, label[few.index])
    assert before <= set(few.index)
    before = set(few.index)
  assert len(sources.subset(table, 1.0, 5, seed, kind).first) == 5
  assert len(sources.subset(table, 1.0, 500, seed, kind).first) == n
  assert (
    sources.subset(table, 0.5, 0, seed, kind).first
    != sources.subset(table, 0.5, 0, seed + 1, kind).first
  )


def test_a_subset_keeps_the_shares_of_the_classes(rng):
  label = np.repeat(np.int32([0, 1, 2]), [700, 200, 100])
  table = sources.Table(['t'] * 1000, None, label, np.arange(1000, dtype=np.int32))
  few = sources.subset(table, 0.1, 0, int(rng.integers(1000)), 'classes')
  np.testing.assert_allclose(np.bincount(few.label), [70, 20, 10], atol=1)


@pytest.mark.parametrize('fraction, size', [(0.0, 0), (1.5, 0), (0.5, -1)])
def test_a_subset_out_of_range_names_the_config_key(fraction, size):
  table = sources.Table(['t'], None, np.zeros(1, np.int32), np.zeros(1, np.int32))
  with pytest.raises(ValueError, match=r'config.data.train_'):
    sources.subset(table, fraction, size, 0, 'classes')


def _table(texts, label):
  return sources.Table(texts, None, label, np.arange(len(texts), dtype=np.int32))


@pytest.mark.parametrize('kind', ['classes', 'regression', 'multilabel'])
def test_rows_that_say_the_same_are_held_out_together_and_shares_are_kept(rng, kind):
  n = 600
  which = rng.integers(0, 400, n)
  texts = [f'{rng.choice(["A", "a"])} film  {i}' for i in which]
  label = {
    'classes': rng.choice(3, n, p=(0.6, 0.3, 0.1)).astype(np.int32),
    'regression': rng.gamma(2.0, size=n).astype(np.float32),
    'multilabel': (rng.random((n, 4)) < (0.5, 0.3, 0.2, 0.05)).astype(np.float32),
  }[kind][which]
  seed = int(rng.integers(1000))
  rest, held = sources.hold_out(_table(texts, label), 0.2, seed, kind)
  assert len(held.first) == 120 and len(rest.first) == 480  # exact
  assert sorted([*rest.index, *held.index]) == list(range(n))
  plain = lambda table: {' '.join(t.lower().split()) for t in table.first}  # noqa: E731
  assert not plain(rest) & plain(held)
  again = sources.hold_out(_table(texts, label), 0.2, seed, kind)[1]
  np.testing.assert_array_equal(again.index, held.index)
  if kind == 'regression':
    for q in np.quantile(label, (0.1, 0.5, 0.9)):
      assert abs((label < q).mean() - (held.label < q).mean()) < 0.06
  else:
    shares = lambda y: (np.eye(3)[y] if kind == 'classes' else y).mean(0)  # noqa: E731
    np.testing.assert_allclose(shares(held.label), shares(label), atol=0.08)


def test_rare_label_sets_are_on_both_sides(rng):
  label = np.array([[i >> k & 1 for k in range(8)] for i in range(256)], np.float32)
  _, held = sources.hold_out(_table([str(i) for i in range(256)], label), 0.2, 0, 'multilabel')
  assert len(held.first) == 51 and 0.3 < held.label.mean() < 0.7


def test_copies_of_one_text_cannot_be_held_out(tmp_path):
  path = jsonl(tmp_path / 'a.jsonl', [{'text': 't', 'label': i % 2} for i in range(9)])
  with pytest.raises(ValueError, match=r'a.jsonl: 9 rows are 1 different ones.*data.validation'):
    sources.read(make(train=path), _SPEC)


def test_without_copies_classes_are_held_out_as_ever():
  # What runs of earlier versions have held out, computed by their formula.
  label = np.int32([0, 1, 2, 0, 1] * 20)
  order = np.random.default_rng(5).permutation(100)
  place = np.empty(100)
  for value in range(3):
    rows = np.flatnonzero(label[order] == value)
    place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
  want = np.sort(order[np.argsort(place, kind='stable')][:10])
  _, held = sources.hold_out(_table([str(i) for i in range(100)], label), 0.1, 5, 'classes')
  np.testing.assert_array_equal(held.index, want)
