"""Every figure that is asked of a GPU: one command, slice by slice, without a network.

python -m benchmarks.gpu OUT [slice ...] [--seconds=570] [--data=DIR] [--again] [--tiny]

OUT/gpu.json has what each slice measured, OUT/gpu.md its tables and, first, the targets,
OUT/gpu.log what the programs said beside that. All are written after each slice, so that a run that
is ended loses the slice that it was at. One that is there is not run again (--again: it is; one
that failed always is), and none is begun with less than a minute left. --tiny: sizes that take a
CPU seconds, to see that all of it runs. --data: a folder of <task>/<split>.parquet for the epoch.

The machine needs jax with its GPU, flax (from 0.12.10 on for jax 0.11), optax, orbax-checkpoint,
transformers and torch, and for the epoch pyarrow, scikit-learn, and without --data pandas and
matplotlib. What else is imported, ml_collections, travels as a wheel:

  python -m pip download --no-deps -d wheels ml_collections==1.1.0
  python -m pip install --no-index --no-deps --target site wheels/*.whl; export PYTHONPATH=site
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from kdjax import report

ROOT = pathlib.Path(__file__).parent.parent
_LEAST = 60  # seconds that must be left to begin a slice


class Slice(NamedTuple):
  """A benchmark's module, its flags, seconds after which it is ended, and flags of --tiny."""

  module: str
  flags: str
  seconds: int
  tiny: str


_TINY = '--size=tiny --batch=4 --length=16 --bank=64 --rounds=2 --steps=1'
_LARGE = '--size=large --length=128 --dtype=bfloat16'
_ALONE = f'{_LARGE} --batch=128 --sides=kdjax --methods=kd --rounds=5 --steps=5'
_SIDES = '--sides=kdjax,torch,compile'
# One that is short, then the most important ones. Compilation is most of the time of all of them.
SLICES = {
  'seeds': Slice(
    'seeds',
    '--seeds=8 --sizes=docs --rows=32 --length=64 --dtype=bfloat16 --rounds=5 --steps=20',
    120,
    '--seeds=2 --sizes=toy --rows=4 --length=8 --rounds=1 --steps=1',
  ),
  'large': Slice(
    'step', f'{_LARGE} --batch=128 {_SIDES} --methods=kd,augpro --rounds=5 --steps=5', 400, _TINY
  ),
  'projection': Slice(
    'projection_step',
    f'{_LARGE} --rows=128 --rate=5e-5 --ways=search,proofs --rounds=15 --warm=40',
    300,
    '--size=tiny --rows=4 --length=16 --rounds=2 --warm=3',
  ),
  'mate': Slice(
    'step',
    f'{_LARGE} --batch=128 --sides=kdjax --players=student --methods=augpro,mate_kd --steps=5',
    200,
    _TINY,
  ),
  'kernels': Slice(
    'kernels', f'{_LARGE} --batch=128 --method=augpro', 120, '--size=tiny --batch=4 --length=16'
  ),
  'large32': Slice(
    'step', f'{_LARGE} --batch=32 {_SIDES} --methods=kd,augpro --rounds=5 --steps=10', 300, _TINY
  ),
  'cudnn': Slice('step', f'{_ALONE} --attention=cudnn', 120, f'{_TINY} --attention=xla'),
  'rbg': Slice('step', f'{_ALONE} --prng=rbg', 120, _TINY),
  'xla': Slice('step', f'{_ALONE} --attention=xla', 120, _TINY),
  'minilm': Slice(
    'step',
    f'--size=minilm --batch=128 --length=128 --dtype=bfloat16 {_SIDES} --players=student '
    '--methods=finetune,kd,augpro,mate_kd --rounds=5 --steps=20',
    300,
    f'{_TINY} --methods=finetune',
  ),
  'feed': Slice(
    'feed',
    '--sizes=toy,small,docs --dtype=bfloat16 --rounds=5 --steps=64',
    150,
    '--sizes=toy --rounds=1 --steps=4 --calls=1,2',
  ),
  'base': Slice(
    'step',
    f'--size=base --batch=128 --length=128 --dtype=bfloat16 {_SIDES} --methods=kd,augpro '
    '--rounds=5 --steps=10',
    300,
    f'{_TINY} --methods=kd',
  ),
  'lengths': Slice(
    'lengths',
    '--size=minilm --dtype=bfloat16 --lengths=16,64,128 --steps=20',
    200,
    '--size=tiny --rows=4 --lengths=8 --methods=kd',
  ),
  'epoch': Slice(
    'epoch',
    '--rows=2048 --rounds=2 --dtype=bfloat16 --steps_per_call=8',
    240,
    '--rows=64 --rounds=1 --steps_per_call=2',
  ),
  'others': Slice(
    'step',
    f'--size=minilm --batch=128 --length=128 --dtype=bfloat16 {_SIDES} '
    '--methods=augpro_fgsm,codir,backward_kd,cilda --rounds=5 --steps=10',
    400,
    f'{_TINY} --methods=augpro_fgsm,codir,backward_kd',
  ),
}
# The targets: of the peak, times torch, share of a step, times AugPro, times one seed.
_PEAK, _EAGER, _COMPILED, _SHARE, _TURN, _SEEDS = 0.5, 2.0, 1.2, 0.03, 1.3, 3.0


class Ended(Exception):
  """SIGTERM or SIGINT."""


def run(name: str, out: pathlib.Path, seconds: float, args) -> dict[str, Any]:
  """A slice in a process of its own, ended after so many seconds."""
  part, said = out / 'now.json', out / 'now.out'
  part.unlink(missing_ok=True)
  s = SLICES[name]
  flags = s.flags.split() + (s.tiny.split() if args.tiny else [])
  flags += [f'--data={args.data}'] * (name == 'epoch' and bool(args.data))
  command = ['-m', f'benchmarks.{s.module}', *flags]
  home = pathlib.Path(tempfile.gettempdir()) / 'kdjax-gpu-xla'
  environment = os.environ | dict(
    HF_HUB_OFFLINE='1',
    JAX_COMPILATION_CACHE_DIR=str(home),  # 'mate' has programs of 'large'
    PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])),
    PYTHONUNBUFFERED='1',
    TOKENIZERS_PARALLELISM='false',
    XLA_PYTHON_CLIENT_PREALLOCATE='false',  # torch is on the same GPU
  )
  begin = time.perf_counter()
  with said.open('w') as stdout, (out / 'gpu.log').open('a') as log:
    print(f'\n== {name}: python {" ".join(command)}', file=log, flush=True)
    child = subprocess.Popen(
      [sys.executable, *command, f'--json={part.absolute()}'],
      stdout=stdout, stderr=log, cwd=ROOT, env=environment, process_group=0,
    )  # fmt: skip
    try:
      ended = 'done' if child.wait(seconds) == 0 else f'failed ({child.returncode})'
    except subprocess.TimeoutExpired:
      ended = f'ended after {seconds:.0f} s'
    finally:  # torch.compile has processes of its own
      with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
      child.wait()
  result = dict(
    ended=ended,
    command=' '.join(['python', *command]),
    seconds=round(time.perf_counter() - begin, 1),
    found=json.loads(part.read_text()) if part.exists() else {},
    said=said.read_text(),
  )
  part.unlink(missing_ok=True)
  said.unlink()
  return result


def targets(done: dict[str, dict]) -> list[list[str]]:
  """[target, found, slice] of what has been measured."""
  lines = []

  def line(what: str, name: str, value: float, good: bool, form: str = '{:.2f}') -> None:
    lines.append([what, form.format(value), 'yes' if good else 'no', name])

  rows = {name: r['found'].get('rows', {}) for name, r in done.items()}
  for name in ('large', 'large32', 'base', 'minilm', 'others'):
    for method, r in rows.get(name, {}).items():
      used = 'utilisation kdjax'
      if name.startswith('large'):
        line(f'{method}: of peak, at least 50 %', name, 100 * r[used], r[used] >= _PEAK, '{:.0f} %')
      for side, least in (('torch', _EAGER), ('compile', _COMPILED)):
        if ratio := r.get(f'{side} / kdjax'):
          line(f'{method}: {side} / kdjax, at least {least}', name, ratio[0], ratio[0] >= least)
  if found := rows.get('projection'):
    base = _median(found['none']['seconds'])
    for way in ('search', 'proofs'):
      share = 1 - base / _median(found[way]['seconds'])
      what = f'projection by {way}: of the step, at most 3 %'
      line(what, 'projection', 100 * share, share <= _SHARE, '{:.1f} %')
    over = done['projection']['found']['as_large_as_all_scores']
    line('arrays as large as [B L, V], none', 'projection', len(over), not over, '{:.0f}')
  if len(found := rows.get('mate', {})) > 1:
    ratio = found['mate_kd']['kdjax'][0] / found['augpro']['kdjax'][0]
    line("MATE-KD, student's turn / AugPro, at most 1.3", 'mate', ratio, ratio <= _TURN)
  for size, r in rows.get('seeds', {}).items():
    n, ratio = done['seeds']['found']['seeds'], r['all'][0] / r['one'][0]
    line(f'{size}: {n} seeds / 1 seed, at most 3', 'seeds', ratio, ratio <= _SEEDS)
  return lines


def _median(x: list[float]) -> float:
  return sorted(x)[len(x) // 2]


def page(done: dict[str, dict]) -> str:
  """Markdown: targets, seconds of the slices, and what each printed."""
  head = ['target', 'found', 'reached', 'slice']
  found = targets(done)
  text = ['# On a GPU', report.markdown(head, found) if found else '', '']
  lines = [[name, r['ended'], f'{r["seconds"]:.0f}'] for name, r in done.items()]
  text.append(report.markdown(['slice', '', 'seconds'], lines))
  for name, r in done.items():
    text.append(f'\n## {name}: {r["ended"]}\n\n`{r["command"]}`\n\n{r["said"].strip()}')
  return '\n'.join(text) + '\n'


def main(argv: list[str] | None = None) -> int:
  """0: all slices that were asked for are done."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('out', type=pathlib.Path, help='A folder; what is in it is not run again.')
  parser.add_argument('slices', nargs='*', metavar='slice', help=f'Of {", ".join(SLICES)}.')
  parser.add_argument('--seconds', type=float, default=570.0, help='Of all slices together.')
  parser.add_argument('--data', default='', help='As of benchmarks/epoch.py.')
  parser.add_argument('--again', action='store_true', help='Slices that are there, too.')
  parser.add_argument('--tiny', action='store_true', help='Small sizes, on any machine.')
  args = parser.parse_args(argv)
  if wrong := [name for name in args.slices if name not in SLICES]:
    parser.error(f'no slice {", ".join(wrong)}; there are {", ".join(SLICES)}')
  args.data = str(pathlib.Path(args.data).absolute()) if args.data else ''
  args.out.mkdir(parents=True, exist_ok=True)
  kept = args.out / 'gpu.json'
  done = report.read_json(kept) if kept.exists() else {}
  end = time.perf_counter() + args.seconds
  wanted = args.slices or list(SLICES)
  for name in wanted:
    if done.get(name, {}).get('ended') == 'done' and not args.again:
      print(f'{name}: is there', flush=True)
      continue
    left = end - time.perf_counter()
    if left < _LEAST:
      print(f'{name}: not begun, {left:.0f} s are left', flush=True)
      continue
    result = run(name, args.out, left if args.tiny else min(SLICES[name].seconds, left), args)
    print(f'{name}: {result["ended"]}, {result["seconds"]:.0f} s', flush=True)
    done[name] = result
    done = {name: done[name] for name in SLICES if name in done}
    report.write_json(kept, done)
    (args.out / 'gpu.md').write_text(page(done), encoding='utf8')
  print(f'\n{page(done)}')
  return int(any(done.get(name, {}).get('ended') != 'done' for name in wanted))


def _stop(signum, frame):
  raise Ended(signal.Signals(signum).name)


if __name__ == '__main__':
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _stop)
  try:
    sys.exit(main())
  except Ended as e:
    sys.exit(f'ended by {e}')
