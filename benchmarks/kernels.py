"""Where a step's time goes on the device: what ran longest, and how long nothing ran.

python -m benchmarks.kernels [--size=minilm] [--method=augpro] [--batch=32] [--length=64]

Of benchmarks/step.py's models and text, by jax.profiler. `busy` of a step are the seconds of all
that ran, one after another on a GPU; the rest of the wall clock is idle. (Threads of a CPU overlap:
there it says little.) Kinds are told by names: products, attention of cuDNN, copies (also of the
number of turns that a loop asks the host for), and the rest, which is what the compiler has fused.
"""

import collections
import pathlib
import sys
import tempfile
import time

import jax
from absl import app, flags

from benchmarks import step
from kdjax import report

# By what is in a kernel's name, or in that of the operation; the first that fits.
KINDS = {
  'attention': ('fmha', 'flash', 'sdpa'),
  'products': ('gemm', 'xmma', 'cutlass', 'cublas', 'nvjet', 'dot', 'matmul'),
  'copies': ('memcpy', 'memset', 'copy', 'transpose'),
}
_AROUND = ('while', 'cond', 'call')  # what runs inside them is told by itself
_DERIVED = ('XLA', 'Steps', 'Framework', 'Source', 'TensorFlow')  # lines that repeat the streams


def events(folder: pathlib.Path):
  """(name, operation, seconds) of what a program ran, of a trace."""
  (path,) = folder.glob('**/*.xplane.pb')
  planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
  devices = [plane for plane in planes if plane.name.startswith('/device:')] or planes
  for plane in devices:
    for line in plane.lines:
      if line.name.startswith(_DERIVED):
        continue
      for event in line.events:
        stats = dict(event.stats)
        if ('hlo_op' in stats or 'hlo_module' in stats) and not event.name.startswith(_AROUND):
          yield event.name, str(stats.get('hlo_op', '')), event.duration_ns / 1e9


def kind(name: str, operation: str) -> str:
  """One of KINDS, or 'the rest'."""
  said = f'{name} {operation}'.lower()
  return next((k for k, words in KINDS.items() if any(w in said for w in words)), 'the rest')


def main(argv) -> None:
  del argv
  knobs = dict(dtype=DTYPE.value, attention=ATTENTION.value)
  made = step.build(SIZE.value, **knobs)
  batch = step.text(made['teacher'][1].vocab_size, BATCH.value, LENGTH.value, BATCH.value)
  ours = step.Ours(step.fields(METHOD.value), made, batch, BATCH.value)
  ours.run(PLAYER.value, 3)
  n = STEPS.value
  with tempfile.TemporaryDirectory() as where:
    with jax.profiler.trace(where):
      begin = time.perf_counter()
      ours.run(PLAYER.value, n)
      wall = (time.perf_counter() - begin) / n
    kinds, each = collections.Counter(), collections.Counter()
    for name, operation, seconds in events(pathlib.Path(where)):
      kinds[kind(name, operation)] += seconds / n
      each[name if operation in name else f'{operation}: {name}'] += seconds / n
  busy = sum(kinds.values())
  found = dict(command=' '.join(['python -m benchmarks.kernels', *sys.argv[1:]]))
  found |= dict(machine=step.machine(), wall=wall, busy=busy, kinds=dict(kinds))
  found['longest'] = dict(each.most_common(40))
  if JSON.value:
    report.write_json(pathlib.Path(JSON.value), found)

  def table(title: str, some) -> str:
    lines = [[k[:90], f'{1e3 * v:.3f}', f'{100 * v / wall:.1f} %'] for k, v in some]
    return report.markdown([title, 'ms a step', 'of it'], lines)

  print(f'{METHOD.value}, {SIZE.value}, {BATCH.value} x {LENGTH.value}, {knobs}: ', end='')
  print(f'{1e3 * wall:.1f} ms a step, {1e3 * busy:.1f} of them busy\n')
  print(table('kind', kinds.most_common()))
  print(f'\n{table("longest", each.most_common(25))}')


if __name__ == '__main__':
  SIZE = flags.DEFINE_enum('size', 'minilm', list(step.SIZES), 'Of the models.')
  METHOD = flags.DEFINE_enum('method', 'augpro', list(step.METHODS), 'Whose step.')
  PLAYER = flags.DEFINE_string('player', 'student', 'Whose turn.')
  BATCH = flags.DEFINE_integer('batch', 32, 'Rows.')
  LENGTH = flags.DEFINE_integer('length', 64, 'Tokens a row.')
  DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.')
  ATTENTION = flags.DEFINE_string('attention', 'einsum', 'config.train.attention.')
  STEPS = flags.DEFINE_integer('steps', 3, 'That are traced.')
  JSON = flags.DEFINE_string('json', '', 'A file for the numbers.')
  app.run(main)
