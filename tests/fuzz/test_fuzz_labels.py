"""Label columns: a class by its own name, a score of its own value, or an error with the row."""

import json
import math

import numpy as np
import pytest
from hypothesis import strategies as st

from kdjax import tasks
from kdjax.data import sources
from tests.data import data_config
from tests.fuzz import damage

_ODD = [
  0, 1, 2, 1.0, 2.5, -1, -1.0, True, '0', '01', ' 1', '1.0', 'pos', ' pos ', 'nan', 'inf', '\u0661',
  'a|b', '|', ['a', 'b'], [None], [['a']], '9' * 5000, float('nan'), float('inf'), 10**400, 10**30,
  '\u202epos', '\U0001f600', 'a\0',
]  # fmt: skip
_LABELS = damage.ANY | st.integers(0, len(_ODD) - 1).map(_ODD.__getitem__)


def _plain(value) -> str:
  """A class's name, by another way than the reader's."""
  if isinstance(value, float) and math.isfinite(value) and value == math.floor(value):
    return f'{value + 0.0:.0f}'  # nor -0
  return str(value).strip()


@pytest.mark.parametrize('kind', ['classes', 'regression', 'multilabel'])
def test_labels_are_what_the_rows_say_or_are_refused(fuzz, tmp_path, kind):
  path, other = tmp_path / 'a.jsonl', tmp_path / 'b.jsonl'
  spec = tasks.Spec(
    name='text', columns=('text',), label='label', kind=kind, labels=(), evaluation=('validation',),
    metrics=(),
  )  # fmt: skip
  good = dict(classes=['pos', '1'], regression=[0.5, '1'], multilabel=['pos', ['1']])[kind]
  rows = st.lists(_LABELS | st.sampled_from(good), min_size=1, max_size=3)

  def once(values):
    values = [*good, *values]
    for file, some in ((path, values), (other, good)):
      file.write_text('\n'.join(json.dumps(dict(text='\u05d0', label=value)) for value in some))
    found = []
    c = data_config.make(train=path, validation=other)
    out = damage.outcome(path, lambda: found.append(sources.read(c, spec)))
    if out == 'read':
      label, names = found[0].splits['train'].label, found[0].labels
      if kind == 'classes':
        assert [names[i] for i in label] == [_plain(value) for value in values]
        assert '' not in names
      elif kind == 'regression':
        np.testing.assert_array_equal(label, np.array([float(v) for v in values], np.float32))
      else:
        assert set(np.unique(label)) <= {0, 1} and label.shape == (len(values), len(names))
    return out

  fuzz(rows, once, share=2 / 3)
