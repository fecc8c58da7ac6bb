"""What a training step holds and sends on each device of a mesh that need not exist.

python -m benchmarks.layout --devices=64 --fsdp=8 [--tensor=1] [--whole=student] [--method=kd]

Compiles one turn for RoBERTa-large -> DistilRoBERTa from shapes alone: no weights, and simulated
CPU devices. Prints where parameters lie, the compiled program's memory on one device, and its
collectives; --json: as one object. The CPU's compiler leaves a reduce-scatter as an all-reduce of
the whole and a slice, which those of GPU and TPU join: read `all-reduce` of gradients as that.
"""

import collections
import json
import math
import os
import re

from absl import app, flags

_DEVICES = flags.DEFINE_integer('devices', 8, 'Simulated ones.')
_FSDP = flags.DEFINE_integer('fsdp', 1, 'config.mesh.fsdp.')
_TENSOR = flags.DEFINE_integer('tensor', 1, 'config.mesh.tensor.')
_WHOLE = flags.DEFINE_string('whole', '', 'config.mesh.whole.')
_METHOD = flags.DEFINE_string('method', 'kd', 'A method whose start needs no data.')
_PLAYER = flags.DEFINE_string('player', 'student', 'Whose turn.')
_ROWS = flags.DEFINE_integer('rows', 8, 'A device.')
_LENGTH = flags.DEFINE_integer('length', 128, 'Tokens a row.')
_LAYERS = flags.DEFINE_integer('layers', 24, "The teacher's; the student has a quarter of them.")
_DTYPE = flags.DEFINE_string('dtype', 'float32', 'config.train.dtype.')
_REMAT = flags.DEFINE_string('remat', 'none', 'config.train.remat.')
_COMPILE = flags.DEFINE_bool('compile', True, 'False: only where parameters lie.')
_JSON = flags.DEFINE_bool('json', False, 'Numbers for a program.')

# Else the CPU's compiler joins what rematerialisation computes twice.
_OPTIONS = dict(xla_disable_hlo_passes='cse_barrier_expander')
KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
_BYTES = dict(pred=1, s8=1, u8=1, bf16=2, f16=2, s32=4, u32=4, f32=4, s64=8, u64=8)


def world(layers: int, **knobs):
  """(Env, shapes of the parameters by name): RoBERTa-large, DistilRoBERTa, a generator of two.

  knobs: of families.spec.
  """
  import jax.numpy as jnp
  import transformers

  from kdjax import env, net, tasks
  from kdjax.models import encoders, families

  sizes = dict(
    teacher=(layers, 1024, 16, 'classify'),
    student=(max(layers // 4, 1), 768, 12, 'classify'),
    generator=(2, 768, 12, 'mlm'),
  )
  nets, params = {}, {}
  for name, (depth, width, heads, head) in sizes.items():
    config = transformers.RobertaConfig(
      vocab_size=50265,
      hidden_size=width,
      num_hidden_layers=depth,
      num_attention_heads=heads,
      intermediate_size=4 * width,
      max_position_embeddings=514,
      type_vocab_size=1,
    )
    nets[name], params[name] = net.split(
      encoders.abstract(families.spec(config, head=head, **knobs))
    )
  ordinary = jnp.ones(50265, bool)
  task = tasks.KINDS['classes']
  made = env.Env(nets['student'], nets['teacher'], task, ordinary, '', nets['generator'], 50264)
  return made, params


def abstract(rows: int, length: int):
  """Shapes of a batch."""
  import jax
  import numpy as np

  kinds = dict(tokens=np.int32, segments=np.int32, mask=np.bool_, maskable=np.bool_)
  batch = {k: jax.ShapeDtypeStruct((rows, length), dtype) for k, dtype in kinds.items()}
  return batch | {k: jax.ShapeDtypeStruct((rows,), np.int32) for k in ('label', 'index')}


def collectives(text: str) -> dict[str, list]:
  """By kind, [times a step, shapes of the result, bytes] of a compiled program, the largest first.

  What is in a loop counts as often as the loop turns.
  """
  inside, calls, name = collections.defaultdict(list), collections.defaultdict(list), ''
  for line in text.splitlines():
    head = re.match(r'(?:ENTRY )?%?([\w.-]+) .*\{$', line)
    if head:
      name = 'ENTRY' if line.startswith('ENTRY') else head[1]
    found = re.search(r'= (.*?) ([\w-]+?)(?:-start)?\(', line)
    if found and found[2] in KINDS:
      inside[name].append((found[2], re.findall(r'(\w+)\[([\d,]*)\]', found[1])))
    turns = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    for other in re.findall(r'(?:body|calls|to_apply|condition)=%?([\w.-]+)', line):
      calls[name].append((other, int(turns[1]) if turns else 1))
    for several in re.findall(r'branch_computations=\{(.*?)\}', line):
      calls[name] += [(other.strip(' %'), 1) for other in several.split(',')]
  out = {kind: collections.Counter() for kind in KINDS}

  def walk(name, times):
    for kind, shapes in inside[name]:
      out[kind][tuple(shapes)] += times
    for other, n in calls[name]:
      walk(other, times * n)

  walk('ENTRY', 1)

  def size(shapes):
    return sum(_BYTES[kind] * math.prod(map(int, s.split(',') if s else ())) for kind, s in shapes)

  rows = {
    kind: [[n, [f'{k}[{s}]' for k, s in shapes], n * size(shapes)] for shapes, n in found.items()]
    for kind, found in out.items()
    if found
  }
  return {kind: sorted(found, key=lambda row: -row[2]) for kind, found in rows.items()}


def main(argv) -> None:
  del argv
  flag = '--xla_force_host_platform_device_count'
  os.environ['XLA_FLAGS'] = f'{flag}={_DEVICES.value} --xla_backend_optimization_level=0'
  os.environ['JAX_PLATFORMS'] = 'cpu'
  import jax
  import numpy as np

  from configs import common
  from kdjax import methods, sharding, train
  from kdjax.data import batches

  env, params = world(_LAYERS.value, dtype=_DTYPE.value, remat=_REMAT.value)
  mesh = sharding.make_mesh(-1, _FSDP.value, _TENSOR.value, _WHOLE.value)
  c = common.config('docs', _METHOD.value)
  used = ('student', 'teacher', 'generator')[: 3 if 'generator' in c.method else 2]
  params = {name: params[name] for name in used}
  rows = _ROWS.value * mesh.rows
  with c.unlocked():
    c.train.update(dict(batch_size=rows, seed=0, steps=100))
  data = batches.Dataset(None, np.zeros(rows, np.int32), np.arange(rows, dtype=np.int32), None)
  method = methods.get(c.method.name)(c.method, env)
  state, frozen, steps = train.shapes(method, params, data, c.train, 100, mesh)
  groups = train.groups(state, frozen)
  found = dict(table=sharding.table(groups, mesh), held=sharding.held(groups, mesh))
  if _COMPILE.value:
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = abstract(rows, _LENGTH.value)
    program = steps[_PLAYER.value].lower(state, frozen, batch, key).compile(_OPTIONS)
    memory = program.memory_analysis()
    found |= dict(
      arguments=memory.argument_size_in_bytes,
      temporary=memory.temp_size_in_bytes,
      collectives=collectives(program.as_text()),
    )
  if _JSON.value:
    print(json.dumps(found))
    return
  print(found['table'])
  if _COMPILE.value:
    print(f'\nof a step on a device, MB: arguments {found["arguments"] / 1e6:.0f}, ', end='')
    print(f'temporary {found["temporary"] / 1e6:.0f}')
    for kind, several in found['collectives'].items():
      times, size = (sum(row[i] for row in several) for i in (0, 2))
      print(f'{kind}: {times} of {size / 1e6:.1f} MB; the largest:')
      for n, shapes, size in several[:4]:
        more = f' and {len(shapes) - 2} more' if len(shapes) > 2 else ''
        print(f'  {n} x {", ".join(shapes[:2])}{more}: {size / 1e6:.1f} MB')


if __name__ == '__main__':
  app.run(main)
