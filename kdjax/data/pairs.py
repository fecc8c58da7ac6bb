"""New pairs of a task's own texts: one text of a row, beside one that is like its other."""

from collections.abc import Callable, Iterator

import numpy as np

from kdjax.data import table as tables

NEAR = 300  # ranks of likeness, 1 the nearest, from which a text is taken
_BLOCK = 4096  # rows among which likes are sought: memory and time grow with its square
_CHUNK = 512  # texts whose likes are sought together


def anew(
  splits: dict[str, tables.Table],
  each: int,
  seed: int,
  kind: str,
  classes: int,
  words: Callable[[str], list],
) -> tables.Table:
  """Pairs that no split has, without labels; of copies, one.

  Of a row (a, b), half of the new ones are (a, b') and half (a', b), where b' is like b, a' like a:
  of a rank of cosine similarity by tf-idf drawn from 1 to NEAR, its logarithm uniformly. So pairs
  are near to what the row says, and by degrees further off. Likes are other rows' texts of the same
  side, in blocks of the shuffled rows.

  Args:
    splits: by name, of pairs; the texts are train's.
    each: how many a row; there are fewer where texts are few.
    words: text -> its tokens, by which texts are alike.

  Raises:
    ValueError: no pair is new.
  """
  train, rng = splits['train'], np.random.default_rng(seed)
  known = {key for split in splits.values() for key in tables.keys(split)}
  order = rng.permutation(len(train.first))
  blocks = np.array_split(order, -(-len(order) // _BLOCK))
  rows = [pair for block in blocks for pair in _block(tables.take(train, block), each, rng, words)]
  first, second = zip(*rows, strict=True) if rows else ((), ())
  new = _table(first, second, kind, classes)
  fresh = {key: n for n, key in enumerate(tables.keys(new)) if key not in known}
  if not fresh:
    raise ValueError(
      f'config.data.new_pairs={each}: of {len(order)} training rows no two texts make a pair that '
      'is new: set it to 0'
    )
  return tables.take(new, np.array(sorted(fresh.values())))


def _table(first, second, kind: str, classes: int) -> tables.Table:
  none = tables.unlabelled(len(first), kind, classes)
  return tables.Table(list(first), list(second), none, np.arange(len(first), dtype=np.int32))


def _block(train: tables.Table, each: int, rng, words) -> Iterator[tuple[str, str]]:
  """each // 2 new seconds of every row, and so many firsts that there are `each` of both."""
  for likes, beside, count, turn in (
    (train.second, train.first, each // 2, 1),
    (train.first, train.second, each - each // 2, -1),
  ):
    for other, text_K in zip(beside, _like(likes, count, rng, words), strict=True):
      for text in text_K:
        yield (other, text)[::turn]


def _like(texts: list[str], count: int, rng, words) -> list[list[str]]:
  """Of each text, `count` that are like it, by rank; none where there is no other text."""
  from sklearn.feature_extraction import text as features

  number = {text: n for n, text in enumerate(dict.fromkeys(texts))}
  known, place_N = list(number), np.array([number[text] for text in texts])
  most = min(NEAR, len(known) - 1)
  if not (most and count and any(map(words, known))):
    return [[] for _ in texts]
  weigh = features.TfidfVectorizer(analyzer=words, sublinear_tf=True, dtype=np.float32)
  tfidf_NV = weigh.fit_transform(known)
  rank_NK = np.exp(rng.uniform(0, np.log(most + 1), (len(texts), count))).astype(int)
  out = []
  for start in range(0, len(texts), _CHUNK):
    own_C, rank_CK = place_N[start : start + _CHUNK], rank_NK[start : start + _CHUNK]
    like_CN = (tfidf_NV[own_C] @ tfidf_NV.T).toarray()
    like_CN += rng.uniform(0, 1e-6, like_CN.shape)  # of equals any comes first
    like_CN[np.arange(len(own_C)), own_C] = -1  # itself comes last
    near_CM = np.argpartition(-like_CN, most - 1, axis=1)[:, :most]
    by = np.argsort(-np.take_along_axis(like_CN, near_CM, 1), axis=1)
    near_CM = np.take_along_axis(near_CM, by, 1)
    chosen_CK = np.take_along_axis(near_CM, rank_CK - 1, 1)
    out += [[known[n] for n in chosen_K] for chosen_K in chosen_CK]
  return out
