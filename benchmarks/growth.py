"""How a step's time and memory grow with batch, length, vocabulary, layers and devices.

python -m benchmarks.growth [--method=kd] [--batch=16] [--length=32] [--json=FILE]

Each point has a process of its own, in which it takes turns with the base point: `time` is the
median over rounds of the ratio of the two, in brackets its quartiles. Layers are the teacher's; the
student has a third. Devices are simulated ones, on which the same batch is split. Memory, MB of all
devices: what the compiled program says of its arguments and of its temporaries, and, measured, how
far the process grew from before its models were made to the height of two steps (of a GPU: the peak
in use).
"""

import contextlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

from absl import app, flags

from benchmarks import choices

_AXES = ('batch', 'length', 'vocab', 'layers')
_FORWARDED = ('method', 'player', 'size', 'rounds', 'clock', 'dtype')


def points(base: dict[str, int], axes, factors, devices) -> list[tuple[str, dict[str, int]]]:
  """(axis, point), the base first."""
  out = [('', base)]
  out += [(axis, base | {axis: int(base[axis] * f)}) for axis in axes for f in map(float, factors)]
  return out + [('devices', base | dict(devices=int(n))) for n in devices]


def _resident(name: str) -> int:
  """Bytes of VmRSS (now) or VmHWM (at most, since it was reset); 0 where Linux does not say."""
  status = pathlib.Path('/proc/self/status')
  lines = status.read_text().splitlines() if status.exists() else []
  found = [line for line in lines if line.startswith(name + ':')]
  return int(found[0].split()[1]) * 1024 if found else 0


def _forget_peak() -> None:
  with contextlib.suppress(OSError):  # not Linux, or not allowed: compilation counts too
    pathlib.Path('/proc/self/clear_refs').write_text('5')


def measure(point: dict[str, int], base: dict[str, int], flag) -> dict:
  """One point, in this process."""
  import jax
  import numpy as np

  from benchmarks import step
  from kdjax import sharding

  def make(p):
    depth = dict(teacher=p['layers'], student=max(p['layers'] // 3, 1))
    made = step.build(flag['size'], depth, p['vocab'], dtype=flag['dtype'])
    batch = step.text(p['vocab'], p['batch'], p['length'], 8192)
    mesh = sharding.make_mesh(p['devices'])
    return step.Ours(step.fields(flag['method']), made, batch, 8192, mesh)

  before = _resident('VmRSS')
  ours, player = make(point), flag['player']
  _forget_peak()
  ours.run(player, 2)
  stats = jax.devices()[0].memory_stats() or {}
  high = _resident('VmHWM') or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  costs = ours.costs(player)
  calls = dict(point=lambda: ours.run(player, 1))
  if point != base:
    other = make(base)
    calls['base'] = lambda: other.run(player, 1)
  clock = dict(wall=time.perf_counter, cpu=time.process_time)[flag['clock']]
  seconds = step.take_turns(calls, flag['rounds'], clock)
  ratio = np.divide(seconds['point'], seconds.get('base', seconds['point']))
  return costs | dict(
    seconds=step.quartiles(seconds['point']),
    time=step.quartiles(ratio),
    measured=stats.get('peak_bytes_in_use', high - before),
    devices=point['devices'],
  )


def _in_process(point, base, values) -> dict:
  """`measure` in a process of its own, with as many simulated devices."""
  environment = dict(os.environ)
  if point['devices'] > 1:
    flag = f'--xla_force_host_platform_device_count={point["devices"]}'
    environment['XLA_FLAGS'] = f'{environment.get("XLA_FLAGS", "")} {flag}'
  said = json.dumps(dict(point=point, base=base, flags=values))
  command = [sys.executable, '-m', 'benchmarks.growth', f'--point={said}']
  done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
  if done.returncode:
    raise SystemExit(f'{point}: {done.stderr[-2000:]}')
  return json.loads(done.stdout.splitlines()[-1])


def _cells(axis: str, point: dict, r: dict) -> list[str]:
  ms = '{:.0f} ({:.0f}-{:.0f})'.format(*(1e3 * v for v in r['seconds']))
  ratio = '{:.2f} ({:.2f}-{:.2f})'.format(*r['time']) if axis else '1'
  sizes = [r['arguments'] * r['devices'], r['temporary'] * r['devices'], r['measured']]
  what = f'{axis} {point[axis]:,}' if axis else 'base'
  return [what, ms, ratio, f'{r["flops"] / 1e9:.1f}', *(f'{n / 1e6:,.0f}' for n in sizes)]


def main(argv) -> None:
  del argv
  if POINT.value:
    said = json.loads(POINT.value)
    print(json.dumps(measure(said['point'], said['base'], said['flags'])))
    return
  from kdjax.report import markdown

  given = flags.FLAGS
  base = {k: given[k].value for k in ('batch', 'length', 'vocab', 'layers')} | dict(devices=1)
  values = {k: given[k].value for k in _FORWARDED}
  rows, found = [], []
  several = (given[k].value for k in ('axes', 'factors', 'devices'))
  for axis, point in points(base, *several):
    r = _in_process(point, base, values)
    found.append(dict(axis=axis, point=point) | r)
    rows.append(_cells(axis, point, r))
    print(*rows[-1], sep=' | ', flush=True)
  head = ['', 'ms', 'time', 'GFLOP', 'arguments', 'temporary', 'measured']
  print(f'\n{values["method"]}, {values["player"]}; base {base}\n{markdown(head, rows)}')
  if given['json'].value:
    pathlib.Path(given['json'].value).write_text(
      json.dumps(dict(command=sys.argv[1:], flags=values, rows=found), indent=1)
    )


if __name__ == '__main__':
  flags.DEFINE_string('method', 'kd', 'A method of benchmarks/step.py.')
  flags.DEFINE_string('player', 'student', 'Whose turn.')
  flags.DEFINE_string('size', 'minilm', 'Widths, of benchmarks/step.py.')
  choices.define('axes', list(_AXES), _AXES, 'By commas.')
  flags.DEFINE_list('factors', ['0.5', '2', '4'], 'Of the base point, along each axis.')
  flags.DEFINE_list('devices', ['2', '4'], 'Numbers of simulated devices.')
  flags.DEFINE_integer('batch', 16, 'Of the base point.')
  flags.DEFINE_integer('length', 32, 'Of the base point.')
  flags.DEFINE_integer('vocab', 30522, 'Of the base point.')
  flags.DEFINE_integer('layers', 6, 'Of the base point.')
  flags.DEFINE_string('dtype', 'float32', 'config.train.dtype.')
  flags.DEFINE_integer('rounds', 5, 'That are timed.')
  flags.DEFINE_enum('clock', 'wall', ['wall', 'cpu'], 'As of benchmarks/step.py.')
  flags.DEFINE_string('json', '', 'A file for the numbers.')
  POINT = flags.DEFINE_string('point', '', 'Internal: what a process of its own measures.')
  app.run(main)
