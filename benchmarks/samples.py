"""Pictures of the samples that backward-pass KD makes of images, with both models' answers.

python -m kdjax.main --config=configs/backward_kd.py:digits --workdir=runs/digits
python benchmarks/samples.py --workdir=runs/digits [--student=kd] [--out=docs/digits_samples.png]

One test image a class; its sample against that student; the difference. Below each: what the
teacher (T) and the student (S) say, and how sure they are. Needs matplotlib.
"""

import json
import pathlib

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from kdjax import env, net, roles
from kdjax.data import batches, images, table
from kdjax.methods import backward_kd, base

_WORKDIR = flags.DEFINE_string('workdir', None, 'Of a finished run.', required=True)
_STUDENT = flags.DEFINE_string('student', 'kd', "Whose samples: a run's name.")
_OUT = flags.DEFINE_string('out', 'docs/digits_samples.png', 'The picture.')


def made(c, spec, split: table.Table, workdir: pathlib.Path, student: str):
  """(images, samples, teacher's and student's probabilities of either), arrays [n, ...]."""
  models = {
    role: roles.load(c, spec, workdir / name / 'model')
    for role, name in (('teacher', 'teacher'), ('student', student))
  }
  world = env.make(c, spec, models['student'], models['teacher'])
  params = {role: net.split(model.module)[1] for role, model in models.items()}
  batch, _ = next(batches.eval_batches(images.dataset(split), len(split.first), ()))
  fields = ConfigDict(dict(c.baselines.backward_kd, first_round=1.0))
  part = backward_kd.view(fields, world)
  _, memory = part.init(jax.random.key(0), params, base.Data(batch['index'], None, 1, 1))
  view, _ = jax.jit(part.call)(params, memory, batch, None, None, jax.random.key(0))
  found = [np.asarray(batch['tokens']), np.asarray(view.student)]
  answers = [
    {
      role: np.asarray(
        jax.nn.softmax(getattr(world, role)(params[role], batch | dict(tokens=x)).logits)
      )
      for role in models
    }
    for x in found
  ]
  return [x.reshape(-1, *spec.shape) for x in found], answers, float(view.metrics['rise'])


def main(argv) -> None:
  del argv
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  workdir = pathlib.Path(_WORKDIR.value)
  c = ConfigDict(json.loads((workdir / 'config.json').read_text()))
  c, spec, text = env.read(c)
  split = text.splits['test']
  firsts = np.array([np.flatnonzero(split.label == k)[0] for k in range(spec.num_labels)])
  pixels, answers, rise = made(c, spec, table.take(split, firsts), workdir, _STUDENT.value)
  rows = [*pixels, pixels[1] - pixels[0]]
  figure, axes = pyplot.subplots(3, len(firsts), figsize=(1.25 * len(firsts), 4.6))
  for row, (values, name) in enumerate(zip(rows, ('image', 'sample', 'change'), strict=True)):
    for column, axis in enumerate(axes[row]):
      low, color = (-1, 'RdBu_r') if name == 'change' else (0, 'gray')
      shown = values[column].mean(-1) if name == 'change' else values[column].squeeze()
      axis.imshow(shown, cmap=color, vmin=low, vmax=1)
      axis.set(xticks=[], yticks=[])
      if column == 0:
        axis.set_ylabel(name)
      if name != 'change':
        p = {role: answers[row][role][column] for role in ('teacher', 'student')}
        said = (f'{k[0].upper()}: {spec.labels[v.argmax()]} {v.max():.0%}' for k, v in p.items())
        axis.set_xlabel('\n'.join(said), fontsize=8)
  figure.suptitle(
    f'The gap of the logits grows {rise:.1f} times from images to samples', fontsize=10
  )
  figure.tight_layout()
  figure.savefig(_OUT.value, dpi=100)
  print(_OUT.value)


if __name__ == '__main__':
  app.run(main)
