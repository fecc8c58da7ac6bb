"""The task table: columns, class names, metrics; and what a kind of task means for the losses."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kdjax import losses, metrics


class Task(NamedTuple):
  """What a kind of task means to a method.

  loss: (logits [B, C], label) -> f32[B], against the gold label.
  gap: (student_logits [B, C], teacher_logits [B, C], temperature) -> f32[B], against the teacher.
  cross: as gap, the cross-entropy instead of the divergence: the same for a student, but not for
    whoever writes the teacher's input. Of scores, the gap.
  decide: logits [B, C] -> the decision that a metric compares: class i32[B], bits i32[B, C] or,
    for regression, score f32[B].
  differs: (logits [B, C], logits [B, C]) -> bool[B], whether two texts get different labels; for
    regression, scores further apart than half the batch's standard deviation.
  """

  loss: Callable[..., jax.Array]
  gap: Callable[..., jax.Array]
  cross: Callable[..., jax.Array]
  decide: Callable[[jax.Array], jax.Array]
  differs: Callable[[jax.Array, jax.Array], jax.Array]


KINDS: dict[str, Task] = {
  'classes': Task(
    loss=losses.cross_entropy,
    gap=losses.soft_kl,
    cross=losses.soft_cross_entropy,
    decide=lambda logits: logits.argmax(-1),
    differs=lambda a, b: a.argmax(-1) != b.argmax(-1),
  ),
  'regression': Task(
    loss=lambda logits, label: losses.squared_gap(logits, label[:, None]),
    gap=lambda student, teacher, temperature=1.0: losses.squared_gap(student, teacher),
    cross=lambda student, teacher, temperature=1.0: losses.squared_gap(student, teacher),
    decide=lambda logits: logits[:, 0],
    differs=lambda a, b: jnp.abs(a - b)[:, 0] > a.std() / 2,
  ),
  'multilabel': Task(
    loss=losses.sigmoid_cross_entropy,
    gap=losses.sigmoid_kl,
    cross=lambda student, teacher, temperature=1.0: losses.sigmoid_cross_entropy(
      student / temperature, jax.nn.sigmoid(teacher / temperature)
    ),
    decide=lambda logits: (logits > 0).astype('int32'),
    differs=lambda a, b: ((a > 0) != (b > 0)).any(-1),
  ),
}


def partly(task: Task) -> Task:
  """The task of batches in which rows may lack a label: -1, or NaN.

  Their loss is 0, and so is its gradient; that of the others is scaled, so that the mean over the
  batch is the mean over the rows with a label.
  """

  def loss(logits, label):
    missing = jnp.isnan(label) if jnp.issubdtype(label.dtype, jnp.floating) else label < 0
    there_B = ~missing.reshape(len(label), -1).any(1)
    # Filled in before and left out after: of a NaN, neither alone keeps the gradient clean.
    loss_B = task.loss(logits, jnp.where(missing, jnp.zeros_like(label), label))
    scale = len(label) / jnp.maximum(there_B.sum(), 1)
    return jnp.where(there_B, scale * loss_B, 0.0)

  return task._replace(loss=loss)


PROBLEM_TYPES = {
  'classes': 'single_label_classification',
  'regression': 'regression',
  'multilabel': 'multi_label_classification',
}


@dataclasses.dataclass(frozen=True)
class Spec:
  """One task: where its text and labels are, and how it is scored.

  kind: 'classes', 'regression' or 'multilabel'.
  columns: one text column, or two for pairs.
  label: the column of the label; '' where there is none.
  labels: class names in id order; () where they are read from the data, and for regression.
  metrics: names in kdjax.metrics; the first selects the best checkpoint. Of MRPC and QQP that is
    accuracy, as in MATE-KD's official code: F1 rewards saying "equivalent" too often.
  evaluation: splits scored at the end; the first one selects the best checkpoint.
  shape: (height, width, channels) of images, () where it is read from the data; None: text.
  """

  name: str
  kind: str = 'classes'
  columns: tuple[str, ...] = ('text',)
  label: str = 'label'
  labels: tuple[str, ...] = ()
  metrics: tuple[str, ...] = ('accuracy',)
  evaluation: tuple[str, ...] = ('validation',)
  shape: tuple[int, ...] | None = None

  @property
  def images(self) -> bool:
    """Whether the input is an image rather than text."""
    return self.shape is not None

  @property
  def num_labels(self) -> int:
    """Width of the logits."""
    return 1 if self.kind == 'regression' else len(self.labels)

  @property
  def problem_type(self) -> str:
    """The kind, as config.json of a HuggingFace model names it."""
    return PROBLEM_TYPES[self.kind]


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
         metrics=('accuracy', 'f1')),
    Spec('stsb', 'regression', _PAIR, metrics=('pearson', 'spearman')),
    Spec('qqp', columns=('question1', 'question2'), labels=('not_duplicate', 'duplicate'),
         metrics=('accuracy', 'f1')),
    Spec('mnli', columns=('premise', 'hypothesis'), labels=_NLI,
         evaluation=('validation_matched', 'validation_mismatched')),
    Spec('qnli', columns=('question', 'sentence'), labels=_RTE),
    Spec('rte', columns=_PAIR, labels=_RTE),
    Spec('wnli', columns=_PAIR, labels=('not_entailment', 'entailment')),
    # Diagnostics: no labels of its own, scored by a model of MNLI.
    Spec('ax', columns=('premise', 'hypothesis'), labels=_NLI, evaluation=('test',)),
  )
}  # fmt: skip

_DIGITS = tuple('0123456789')
_CLOTHES = (
  'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag',
  'Ankle boot',
)  # fmt: skip
_THINGS = (
  'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck',
)  # fmt: skip

# 'images': own files. The rest are benchmarks; CIFAR-100's classes go by their numbers.
IMAGES: dict[str, Spec] = {
  name: Spec(name, labels=labels, evaluation=('validation', 'test'), shape=shape)
  for name, labels, shape in (
    ('digits', _DIGITS, (8, 8, 1)),
    ('mnist', _DIGITS, (28, 28, 1)),
    ('fashion_mnist', _CLOTHES, (28, 28, 1)),
    ('cifar10', _THINGS, (32, 32, 3)),
    ('cifar100', tuple(map(str, range(100))), (32, 32, 3)),
    ('images', (), ()),
  )
}

# Unlabelled text alone: for methods of masked language models, which ask for no label.
TEXT = Spec('text', label='', metrics=())
DOCS = Spec('docs', metrics=('accuracy', 'f1_macro'), evaluation=('validation', 'test'))
_DEFAULT_METRICS = {
  'classes': ('accuracy', 'f1_macro'),
  'regression': ('pearson', 'spearman'),
  'multilabel': ('f1_micro', 'accuracy'),
}


def names() -> list[str]:
  """Every task that a config may name."""
  return ['docs', 'own', *GLUE, 'text', *IMAGES]


def resolve(c) -> Spec:
  """The task of a whole config; 'own' where config.data.train names a file.

  Raises:
    ValueError: unknown task, kind or metric, with what there is.
  """
  if c.task.name in GLUE:
    return GLUE[c.task.name]
  if c.task.name in IMAGES:
    return _images(c)
  if c.task.name == 'docs' and not c.data.train:
    return DOCS
  if c.task.name == 'text':
    return _unlabelled(c)
  if c.task.name not in ('docs', 'own'):
    raise ValueError(f'task {c.task.name!r} is none of {", ".join(names())}')
  if c.task.kind not in KINDS:
    raise ValueError(f'config.task.kind {c.task.kind!r} is none of {", ".join(KINDS)}')
  if c.data.train.endswith('.npz'):
    raise ValueError(
      f'config.data.train={c.data.train} is for images: name their task after the config file, '
      'like configs/kd.py:images'
    )
  return Spec(
    'own',
    c.task.kind,
    tuple(filter(None, (c.data.text, c.data.pair))),
    c.data.label,
    _parts(c.task.labels),
    _metrics(c),
  )


def _metrics(c) -> tuple[str, ...]:
  wanted = _parts(c.task.metrics) or _DEFAULT_METRICS[c.task.kind]
  known = metrics.OF[c.task.kind]
  unknown = [m for m in wanted if m not in known]
  if unknown:
    raise ValueError(
      f'config.task.metrics {unknown} are none of {", ".join(known)}, which '
      f'config.task.kind={c.task.kind!r} has'
    )
  if wanted[0] in metrics.LOWER:
    raise ValueError(
      f'config.task.metrics={c.task.metrics!r}: the first one chooses the checkpoint, the highest '
      f'value of it, and of {wanted[0]} lower is better: name another one before it'
    )
  return wanted


def _images(c) -> Spec:
  spec = IMAGES[c.task.name]
  if spec.name != 'images':
    return spec
  if c.task.kind != 'classes':
    raise ValueError(f"config.task.kind={c.task.kind!r}: images have classes, 'classes' alone")
  return dataclasses.replace(spec, labels=_parts(c.task.labels), metrics=_metrics(c))


def _unlabelled(c) -> Spec:
  if not c.data.unlabelled or c.data.train:
    raise ValueError(
      'task text is read from config.data.unlabelled'
      + (', not from config.data.train' if c.data.train else ', which is empty')
    )
  return dataclasses.replace(TEXT, columns=(c.data.text,))


def with_labels(spec: Spec, labels: tuple[str, ...]) -> Spec:
  """The spec with these class names, of a config or of the data.

  Raises:
    ValueError: one of them twice, or too few.
  """
  twice = sorted({label for label in labels if labels.count(label) > 1})
  if twice:
    raise ValueError(
      f'{", ".join(twice)}: named twice by config.task.labels or config.data.label: once is enough'
    )
  if spec.kind == 'classes' and len(labels) < 2:
    raise ValueError(f'column {spec.label!r} has {len(labels)} classes {labels}: two are needed')
  return dataclasses.replace(spec, labels=tuple(labels))


def _parts(text: str) -> tuple[str, ...]:
  return tuple(p.strip() for p in text.split(',') if p.strip())
