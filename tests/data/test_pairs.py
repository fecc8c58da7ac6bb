"""New pairs of a task's own texts."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from kdjax.data import pairs, sources

WORDS = [f'w{n}' for n in range(60)]


def _texts(rng, n):
  return [' '.join(rng.choice(WORDS, rng.integers(4, 9))) for _ in range(n)]


def _table(first, second):
  n = len(first)
  return sources.Table(list(first), list(second), np.zeros(n, np.int32), np.arange(n))


def _splits(rng, n=200):
  return dict(
    train=_table(_texts(rng, n), _texts(rng, n)),
    validation=_table(_texts(rng, 20), _texts(rng, 20)),
  )


def _anew(splits, each=10, seed=0, kind='classes'):
  return pairs.anew(splits, each, seed, kind, 3, str.split)


def _rows(table):
  return list(zip(table.first, table.second, strict=True))


@pytest.mark.parametrize('kind', ['classes', 'regression', 'multilabel'])
def test_they_are_of_trains_texts_and_new_and_without_a_label(rng, kind):
  splits = _splits(rng)
  train = splits['train']
  splits['test'] = _table(train.first[:50], train.second[1:51])  # which could have been new
  new = _anew(splits, 7, kind=kind)
  assert set(new.first) <= set(train.first) and set(new.second) <= set(train.second)
  made, there = _rows(new), {row for split in splits.values() for row in _rows(split)}
  assert len(set(made)) == len(made) and not set(made) & there
  assert 7 * 200 * 0.8 < len(made) <= 7 * 200
  none = sources.unlabelled(len(made), kind, 3)
  assert new.label.shape == none.shape and not sources.labelled(new.label).any()
  for own, texts, least in ((train.first, new.first, 3), (train.second, new.second, 4)):
    assert np.mean([texts.count(text) >= least for text in own]) > 0.9
  assert _anew(splits, 7, kind=kind)[:2] == new[:2]
  assert _anew(splits, 7, seed=1, kind=kind)[:2] != new[:2]


def _likeness(texts):
  """Cosine similarities by tf-idf of each with each."""
  tfidf = TfidfVectorizer(token_pattern=r'\S+', sublinear_tf=True).fit_transform(texts).toarray()
  return tfidf @ tfidf.T


def _ranks(texts, own, other):
  """How many of the texts, which differ, are more like `own` than `other` is, and 1."""
  like, place = _likeness(texts), {text: n for n, text in enumerate(texts)}
  i, j = ([place[text] for text in some] for some in (own, other))
  like_N = like[i]
  nearer = like_N > like_N[np.arange(len(j)), j][:, None] + 1e-5
  nearer[np.arange(len(i)), i] = False  # itself
  return 1 + nearer.sum(1)


def test_the_nearest_text_takes_the_place_of_another(rng, monkeypatch):
  monkeypatch.setattr(pairs, 'NEAR', 1)
  splits = _splits(rng)
  train, made = splits['train'], set(_rows(_anew(splits, 2)))
  for n in range(200):
    ranks = [_ranks(side, [side[n]] * 200, side) for side in (train.first, train.second)]
    a, b = ({side[m] for m in np.flatnonzero(rank == 1) if m != n}
            for side, rank in zip((train.first, train.second), ranks, strict=True))  # fmt: skip
    assert any((train.first[n], other) in made for other in b)
    assert any((other, train.second[n]) in made for other in a)


def test_ranks_are_drawn_by_their_logarithm(rng, monkeypatch):
  monkeypatch.setattr(pairs, 'NEAR', 40)
  texts = list(dict.fromkeys(_texts(rng, 400)))
  found = pairs._like(texts, 10, rng, str.split)
  assert [len(likes) for likes in found] == [10] * len(texts)
  own = [text for text in texts for _ in range(10)]
  rank = _ranks(texts, own, [text for likes in found for text in likes])
  logs = np.log(rank) / np.log(41)
  assert rank.min() == 1 and rank.max() <= 40
  share = [(logs < part).mean() for part in (0.25, 0.5, 0.75)]
  np.testing.assert_allclose(share, [0.25, 0.5, 0.75], atol=0.15)  # whole ranks, and equals


def test_likes_are_sought_in_blocks_of_rows_and_copies_are_one_text(rng, monkeypatch):
  splits = _splits(rng, 90)
  train = splits['train']
  twice = train._replace(second=train.second[:45] * 2)
  assert not set(_rows(_anew(dict(train=twice), 4))) & set(_rows(twice))
  monkeypatch.setattr(pairs, '_BLOCK', 30)
  row_of = {text: n for side in (train.first, train.second) for n, text in enumerate(side)}
  reach = np.eye(90, dtype=bool)
  for a, b in _rows(_anew(splits, 6)):
    reach[row_of[a], row_of[b]] = reach[row_of[b], row_of[a]] = True
  for _ in range(7):
    reach = reach @ reach
  assert set(reach.sum(1)) == {30}  # the rows that are near to one another, or to those


def test_where_no_pair_is_new_it_says_so():
  with pytest.raises(ValueError, match=r'config.data.new_pairs=4: of 9 training rows no two texts'):
    _anew(dict(train=_table(['a'] * 9, ['b'] * 9)), 4)
  with pytest.raises(ValueError, match='set it to 0'):  # nothing in them
    _anew(dict(train=_table(['', ' '], ['', ' '])), 4)
  new = _anew(dict(train=_table(['a', 'b', 'e'], ['c', 'c', 'd'])), 60)
  assert sorted(_rows(new)) == [('a', 'd'), ('b', 'd'), ('e', 'c')]


def test_a_joined_table_has_the_rows_of_both(rng):
  a, b = _table(_texts(rng, 3), _texts(rng, 3)), _table(_texts(rng, 2), _texts(rng, 2))
  both = sources.join(a, b)
  assert both.first == a.first + b.first and both.second == a.second + b.second
  np.testing.assert_array_equal(both.index, np.arange(5))
