"""What a further length of batches costs, in seconds and in places (rows x length) of steps.

python -m benchmarks.lengths [--size=minilm] [--methods=kd,finetune] [--lengths=16,32,64,128]

A length is a program of its own (kdjax/data/lengths.py, where _PRICE is what comes of this). For
each: the first step less the median of later ones, compiled into an empty compile cache, and again
loaded from it; ms of a later step; and the places of such steps that take as long. Models are
random, of benchmarks/step.py.
"""

import functools
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np
from absl import app, flags

from benchmarks import choices, step
from kdjax import allocator, report


def first(ours: step.Ours, clock) -> float:
  """Seconds to the end of the first step."""
  begin = clock()
  ours.run('student', 1)
  return clock() - begin


def measure(method: str, made, rows: int, length: int, clock) -> dict[str, float]:
  """Seconds of a later step, and of what comes before: compiled and loaded; and in places."""
  vocab = made['teacher'][1].vocab_size
  batch = step.text(vocab, rows, length, rows)
  play = lambda: step.Ours(step.fields(method), made, batch, rows)  # noqa: E731
  ours = play()
  found = dict(compiled=first(ours, clock))
  more = functools.partial(ours.run, 'student', STEPS.value)
  later = float(np.median(step.take_turns(dict(later=more), 3, clock)['later'])) / STEPS.value
  del ours, more
  jax.clear_caches()
  found['loaded'] = first(play(), clock)
  found = {k: max(v - later, 0.0) for k, v in found.items()}
  places = {f'{k} in places': v / later * rows * length for k, v in found.items()}
  return dict(step=later) | found | places


def main(argv) -> None:
  del argv
  allocator.keep_pages()
  # As the command line does: all of them.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  with tempfile.TemporaryDirectory() as where:
    jax.config.update('jax_compilation_cache_dir', where)
    run()


def run() -> None:
  """All methods and lengths."""
  clock = dict(wall=time.perf_counter, cpu=time.process_time)[CLOCK.value]
  made = step.build(SIZE.value, dtype=DTYPE.value)
  found = dict(command=' '.join(['python -m benchmarks.lengths', *sys.argv[1:]]), rows={})
  lines = []
  for method in METHODS.value:
    for length in map(int, LENGTHS.value):
      r = measure(method, made, ROWS.value, length, clock)
      found['rows'][f'{method}, {length}'] = r
      lines.append([method, str(length), f'{1e3 * r["step"]:.1f}'])
      for k in ('compiled', 'loaded'):
        lines[-1] += [f'{r[k]:.1f}', f'{r[f"{k} in places"]:,.0f}']
      print(*lines[-1], flush=True)
      if JSON.value:
        report.write_json(pathlib.Path(JSON.value), found | dict(machine=step.machine()))
  head = ['', 'length', 'ms a step', 's, compiled', 'in places', 's, loaded', 'in places']
  print(f'\n{SIZE.value}, {ROWS.value} rows, {DTYPE.value}\n{report.markdown(head, lines)}')


if __name__ == '__main__':
  SIZE = flags.DEFINE_enum('size', 'minilm', list(step.SIZES), 'Of the models.')
  METHODS = choices.define('methods', ['kd', 'finetune'], step.METHODS, 'Of benchmarks/step.py.')
  LENGTHS = flags.DEFINE_list('lengths', ['16', '32', '64', '128'], 'By commas.')
  ROWS = flags.DEFINE_integer('rows', 32, 'Of a batch.')
  STEPS = flags.DEFINE_integer('steps', 1, 'Of a round; ten or more on a GPU.')
  DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.')
  CLOCK = flags.DEFINE_enum('clock', 'wall', ['wall', 'cpu'], 'As of benchmarks/step.py.')
  JSON = flags.DEFINE_string('json', '', 'A file for the numbers.')
  app.run(main)
