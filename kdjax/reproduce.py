"""A grid of tasks, methods and seeds: what is missing is trained, and all becomes one report.

python -m kdjax.reproduce --config=configs/grid.py:glue_low --workdir=DIR
python -m kdjax.reproduce --config=configs/augpro.py:sst2 --seeds=3 --workdir=DIR

The second is a grid of one task: a method and what its config compares it with. A grid that was
stopped or killed goes on: runs are those of kdjax.main, and what is finished is read.
"""

import contextlib
import functools
import pathlib
import shlex
import sys

from absl import flags

from kdjax import main, usage


def _run(argv) -> None:
  del argv
  from kdjax import hosts, lock
  from kdjax.grid import jobs, scores

  c, workdir = flags.FLAGS.config, pathlib.Path(flags.FLAGS.workdir)
  with contextlib.ExitStack() as held:
    with main.one_line_errors():
      todo = jobs.of(c, workdir, flags.FLAGS.seeds)
      if hosts.first():
        held.enter_context(lock.of(workdir))
      found = [(job, hosts.agree(lambda job=job: scores.missing(job))) for job in todo]
      missing = [(job, names) for job, names in found if names]
      tests = {name: _test(name, job) for job, _ in missing for name in job.sets}
      for job, _ in missing:
        _check(job)
    for job, names in missing:
      own = {name: tests[name] for name in job.sets}
      write = functools.partial(scores.write, job, tests=own, names=names)
      main.train(job.c, job.workdir, write, held=job.workdir == workdir)
    if hosts.first():
      with main.one_line_errors():
        _report(c, todo, workdir)


def _check(job) -> None:
  """All that can be wrong with a job, before any is trained."""
  from kdjax import jobs

  jobs.prepare(job.c, job.workdir, fork=flags.FLAGS.fork)


def _test(name: str, job):
  from kdjax.data import ood

  return ood.read(name, job.ood_dir, job.rows)


def _report(c, todo, workdir: pathlib.Path) -> None:
  """All that is made of the numbers; nothing is computed but intervals."""
  from kdjax import report
  from kdjax.grid import cells, gather, glue, jobs, page, tables

  command = shlex.join(['python', '-m', 'kdjax.reproduce', *sys.argv[1:]])
  grid = gather.grid(todo, workdir, jobs.methods(c), flags.FLAGS.resamples, command)
  report.write_json(workdir / 'grid.json', grid)
  found, figures = tables.all_of(grid), _plots(grid, workdir)
  said = glue.write(grid, workdir)
  for name, text in {
    'results.md': '\n\n'.join(cells.markdown(table) for table in found) + '\n',
    'results.csv': tables.tidy(grid),
    'results.tex': '\n'.join(cells.latex(table) for table in found),
    'report.html': page.page(grid, found, figures, said),
  }.items():
    (workdir / name).write_text(text, encoding='utf8')
  shown = [cells.markdown(table, report.shown) for table in found]
  print('\n\n'.join(['', *shown, *said]))
  print(f'\n{workdir}/report.html, grid.json, results.md, results.csv, results.tex')


def _plots(grid: dict, workdir: pathlib.Path) -> dict:
  """Figures, saved; none without matplotlib."""
  from kdjax import log
  from kdjax.grid import plots

  try:
    figures = plots.all_of(grid)
  except ImportError:
    log.logger.info(f'no plots: {plots.REMEDY}')
    return {}
  plots.save(figures, workdir / 'plots')
  return figures


if __name__ == '__main__':
  flags.DEFINE_integer(
    'seeds', None, 'Seeds with a teacher each (3); where config.seeds is 1.', lower_bound=1
  )
  flags.DEFINE_integer('resamples', 2000, 'Of each bootstrap interval.', lower_bound=0)
  main.run(_run, usage.reproduce)
