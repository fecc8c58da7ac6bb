"""How fast MATE-KD's generator finds text on which a frozen student and its teacher part.

python benchmarks/found.py --workdir=DIR [--rates=5e-5,1e-3] [--turns=48] [--generator=minilm]

DIR is a finished workdir of a config with a generator (configs/mate_kd.py:sst2 with compare=kd,
say): its teacher, generator and student are taken as they are, with DIR/config.json's data. The
generator alone plays. Prints means over sixths of its turns: `found` is the divergence that it
raises, `entropy` how varied its words are, in nats.
"""

import json
import pathlib
import tempfile

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from kdjax import env, main, methods, net, runs, sharding, staging, train
from kdjax.data import batches
from kdjax.report import markdown

_WORKDIR = flags.DEFINE_string('workdir', None, 'Of a run with teacher, generator and student.')
_STUDENT = flags.DEFINE_string('student', 'kd', 'The run whose student stands still.')
_GENERATOR = flags.DEFINE_string(
  'generator', '', 'Another masked language model; a head that it lacks is random.'
)
_RATES = flags.DEFINE_list('rates', ['5e-5', '1e-3'], 'Of the generator.')
_TURNS = flags.DEFINE_integer('turns', 48, 'Of the generator, for each rate.', lower_bound=6)


def finished(workdir: pathlib.Path, student: str) -> ConfigDict:
  """The run's config, every model of it taken as it was left."""
  c = ConfigDict(json.loads((workdir / 'config.json').read_text(encoding='utf8')))
  for role, run in (('teacher', 'teacher'), ('generator', 'generator'), ('student', student)):
    where = workdir / run / 'model'
    if not where.is_dir():
      raise SystemExit(f'error: no model in {where}')
    c[role].init = str(where)
    if role != 'teacher':  # sizes of random weights, and they are not random now
      c[role].update(width=0, heads=0, ffn=0)
  c.teacher.finetune = c.generator.finetune = False
  if _GENERATOR.value:
    c.generator.update(init=_GENERATOR.value, fresh_head=True)
  return c


def play(plan: env.Plan, rate: float, turns: int) -> list[dict[str, float]]:
  """Metrics of each turn."""
  own = runs.block(plan.c, 'mate_kd').copy_and_resolve_references()
  own.gen_rate = rate
  method = methods.get('mate_kd')(own, plan.env)._replace(turn=lambda step, steps: 'generator')
  fields, data = runs.fields(plan.c, 'mate_kd'), plan.data['train']
  models = {name: getattr(plan, name) for name in ('student', 'teacher', 'generator')}
  params = {name: net.split(model.module)[1] for name, model in models.items()}
  game = train.start(method, params, data, fields, turns, plan.mesh)
  state, found = game.state, []
  shapes = staging.lengths_of(plan, 'mate_kd')
  stream = batches.train_batches(data, fields.batch_size, shapes, fields.seed)
  for _ in range(turns):
    batch = sharding.put(next(stream), plan.mesh)
    state, metrics = game.steps['generator'](state, game.frozen, batch, game.key)
    found.append({k.removeprefix('generator/'): float(v) for k, v in metrics.items()})
  return found


def _main(argv) -> None:
  del argv
  main.start()
  c = finished(pathlib.Path(_WORKDIR.value), _STUDENT.value)
  with tempfile.TemporaryDirectory() as cache:
    plan = env.prepare(c, pathlib.Path(cache), {}, ('teacher', 'student', 'generator'))
    lines = []
    for rate in _RATES.value:
      turns = play(plan, float(rate), _TURNS.value)
      sixths = np.array_split(np.arange(len(turns)), 6)
      for name in ('found', 'entropy', 'grad_norm'):
        means = (np.mean([turns[i][name] for i in part]) for part in sixths)
        lines.append([f'{rate} {name}', *(f'{mean:.3f}' for mean in means)])
      print(markdown(['gen_rate', *(f'{n}/6' for n in range(1, 7))], lines))
      jax.clear_caches()


if __name__ == '__main__':
  flags.mark_flag_as_required('workdir')
  app.run(_main)
