"""The task table: columns, class names, metrics; and what a kind of task means for the losses."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kdjax import losses


class Task(NamedTuple):
  """What a kind of task means to a method.

  loss: (logits [B, C], label) -> f32[B], against the gold label.
  gap: (student_logits [B, C], teacher_logits [B, C], temperature) -> f32[B], against the teacher.
  decide: logits [B, C] -> the decision that a metric compares: class i32[B], bits i32[B, C] or,
    for regression, score f32[B].
  differs: (logits [B, C], logits [B, C]) -> bool[B], whether two texts get different labels; for
    regression, scores further apart than half the batch's standard deviation.
  """

  loss: Callable[..., jax.Array]
  gap: Callable[..., jax.Array]
  decide: Callable[[jax.Array], jax.Array]
  differs: Callable[[jax.Array, jax.Array], jax.Array]


KINDS: dict[str, Task] = {
  'classes': Task(
    loss=losses.cross_entropy,
    gap=losses.soft_kl,
    decide=lambda logits: logits.argmax(-1),
    differs=lambda a, b: a.argmax(-1) != b.argmax(-1),
  ),
  'regression': Task(
    loss=lambda logits, label: losses.squared_gap(logits, label[:, None]),
    gap=lambda student, teacher, temperature=1.0: losses.squared_gap(student, teacher),
    decide=lambda logits: logits[:, 0],
    differs=lambda a, b: jnp.abs(a - b)[:, 0] > a.std() / 2,
  ),
  'multilabel': Task(
    loss=losses.sigmoid_cross_entropy,
    gap=losses.sigmoid_kl,
    decide=lambda logits: (logits > 0).astype('int32'),
    differs=lambda a, b: ((a > 0) != (b > 0)).any(-1),
  ),
}


@dataclasses.dataclass(frozen=True)
class Spec:
  """One task: where its text and labels are, and how it is scored.

  kind: 'classes', 'regression' or 'multilabel'.
  columns: one text column, or two for pairs.
  labels: class names in id order; () where they are read from the data, and for regression.
  metrics: names in kdjax.metrics; the first selects the best checkpoint.
  evaluation: splits scored at the end; the first one selects the best checkpoint.
  """

  name: str
  kind: str = 'classes'
  columns: tuple[str, ...] = ('text',)
  label: str = 'label'
  labels: tuple[str, ...] = ()
  metrics: tuple[str, ...] = ('accuracy',)
  evaluation: tuple[str, ...] = ('validation',)

  @property
  def num_labels(self) -> int:
    """Width of the logits."""
    return 1 if self.kind == 'regression' else len(self.labels)


_PAIR = ('sentence1', 'sentence2')
_NLI = ('entailment', 'neutral', 'contradiction')
_RTE = ('entailment', 'not_entailment')

GLUE: dict[str, Spec] = {
  spec.name: spec
  for spec in (
    Spec('cola', columns=('sentence',), labels=('unacceptable', 'acceptable'),
         metrics=('matthews', 'accuracy')),
    Spec('sst2', columns=('sentence',), labels=('negative', 'positive')),
    Spec('mrpc', columns=_PAIR, labels=('not_equivalent', 'equivalent'),
         metrics=('f1', 'accuracy')),
    Spec('stsb', 'regression', _PAIR, metrics=('pearson', 'spearman')),
    Spec('qqp', columns=('question1', 'question2'), labels=('not_duplicate', 'duplicate'),
         metrics=('f1', 'accuracy')),
    Spec('mnli', columns=('premise', 'hypothesis'), labels=_NLI,
         evaluation=('validation_matched', 'validation_mismatched')),
    Spec('qnli', columns=('question', 'sentence'), labels=_RTE),
    Spec('rte', columns=_PAIR, labels=_RTE),
    Spec('wnli', columns=_PAIR, labels=('not_entailment', 'entailment')),
    # Diagnostics: no labels of its own, scored by a model of MNLI.
    Spec('ax', columns=('premise', 'hypothesis'), labels=_NLI, evaluation=('test',)),
  )
}  # fmt: skip
