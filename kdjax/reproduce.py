"""Several seeds of one config, and a table of means and spreads.

python -m kdjax.reproduce --config=configs/augpro.py:sst2 --seeds=3 --workdir=DIR
"""

import pathlib

import numpy as np
from absl import flags

from kdjax import main

Rows = dict[str, dict]


def _seeds(argv) -> None:
  del argv
  from kdjax import hosts, report, runs

  workdir, results = pathlib.Path(flags.FLAGS.workdir), []
  with main.one_line_errors():
    if flags.FLAGS.config.seeds != 1:
      raise ValueError(
        f'config.seeds={flags.FLAGS.config.seeds}: here --seeds counts, and each has its own '
        'teacher; for students of one teacher, python -m kdjax.main --config.seeds=...'
      )
    if runs.masked(flags.FLAGS.config):
      own = flags.FLAGS.config.method.name
      raise ValueError(f'{own} trains no classifier: its table is of guesses, and of one seed')
  for seed in range(flags.FLAGS.seeds):
    c = flags.FLAGS.config.copy_and_resolve_references()
    c.seed = seed
    plan, rows = main.train(c, workdir / f'seed{seed}')
    results.append(rows)
  text = summary(results, plan.spec.metrics)
  if not hosts.first():
    return
  report.write_json(workdir / 'results.json', results)
  (workdir / 'results.md').write_text(text + '\n', encoding='utf8')
  print(f'\n{text}\n\n{workdir}/results.md, results.json')


def summary(results: list[Rows], metrics: tuple[str, ...]) -> str:
  """A markdown table: mean and standard deviation over seeds, and the difference from KD.

  The difference is paired by seed: both runs of a seed share teacher, start and data order.
  """
  from kdjax import report

  first = results[0]
  splits = [k for k in first['teacher'] if k not in ('parameters', 'examples_per_second')]
  head = ['', 'parameters', *(f'{s} {m}' for s in splits for m in metrics), 'x teacher']
  paired = 'kd' in first and len(results) > 1
  head += [f'{splits[0]} {metrics[0]} - kd'] * paired
  lines = []
  for name, row in first.items():
    cells = [report.spread([r[name][s][m] for r in results]) for s in splits for m in metrics]
    speed = [r[name]['examples_per_second'] / r['teacher']['examples_per_second'] for r in results]
    line = [name, report.count(row['parameters']), *cells, f'{np.median(speed):.1f}']
    if paired:
      gap = [r[name][splits[0]][metrics[0]] - r['kd'][splits[0]][metrics[0]] for r in results]
      line.append('' if name == 'kd' else report.spread(gap, '+'))
    lines.append(line)
  n = len(results)
  said = f'mean ± standard deviation over {n} seeds' if n > 1 else 'one seed'
  return f'{report.markdown(head, lines)}\n\n{said}'


if __name__ == '__main__':
  flags.DEFINE_integer('seeds', 3, 'How many: 0, 1, ...', lower_bound=1)
  main.run(_seeds)
