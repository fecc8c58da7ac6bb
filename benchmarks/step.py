"""A training step of each method beside the same step in PyTorch with transformers' models.

python -m benchmarks.step [--size=minilm] [--methods=kd,augpro] [--batch=32] [--length=64]

All sides (--sides=kdjax,torch,compile; the last is torch with its models compiled) start from the
same random weights, with the same dropout, AdamW and clipping, and read the same batch. Torch's
attention is the scaled dot-product one, and bfloat16 is torch.autocast there. They take turns in
one process. Ratios are torch / kdjax, medians over rounds of the ratio within a round; in brackets
the quartiles; then the ratio of the quickest round of each, which other work on the machine
disturbs least. GFLOP: of the matrix products that the method needs (`useful`), whoever computes
them; floor: that over the peak of a matrix product measured in the same run. What the compiler
counts of kdjax's program, FLOPs and bytes touched, stands beside it. On a GPU: benchmarks/gpu.py.

Freed memory is kept on a CPU, for both sides: kdjax/allocator.py; GLIBC_TUNABLES= before the
command leaves it to glibc. On a CPU that others use, most of what is timed is a wait for the
slowest of several threads. There, taskset -c 0 python -m benchmarks.step --clock=cpu gives both
sides one core and counts its seconds.
"""

import functools
import gc
import importlib.util
import json
import os
import pathlib
import platform
import sys
import tempfile
import time

os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # both sides share a GPU

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import choices
from kdjax import allocator, report

SIDES = ('kdjax', 'torch', 'compile')
ROLES = ('student', 'generator')
MASK = 103
# family, vocabulary, (layers, width, heads, inner width) of teacher, student, generator.
SIZES = {
  'tiny': ('bert', 300, (2, 24, 2, 48), (1, 16, 2, 32), (1, 16, 2, 32)),
  'minilm': ('bert', 30522, (6, 384, 12, 1536), (2, 384, 12, 1536), (2, 384, 12, 1536)),
  'base': ('bert', 30522, (12, 768, 12, 3072), (6, 768, 12, 3072), (2, 768, 12, 3072)),
  'large': ('roberta', 50265, (24, 1024, 16, 4096), (6, 768, 12, 3072), (2, 768, 12, 3072)),
}
# Fields of configs/<file>.py: (file, name there).
METHODS = {
  'finetune': ('finetune', 'finetune'),
  'kd': ('kd', 'kd'),
  'augpro': ('augpro', 'augpro'),
  'augpro_fgsm': ('augpro', 'augpro_fgsm'),
  'mate_kd': ('mate_kd', 'mate_kd'),
  'cilda': ('cilda', 'cilda'),
  'codir': ('codir', 'codir'),
  'backward_kd': ('backward_kd', 'backward_kd'),
}
TURNS = 1000  # of the schedules


def fields(name: str, **changes) -> ConfigDict:
  """A method's shipped fields."""
  file, block = METHODS[name]
  c = ConfigDict(importlib.import_module(f'configs.{file}').methods()[block])
  c.update(changes)
  return c


def train_fields(batch: int, **changes) -> ConfigDict:
  """config.train, with a constant seed."""
  from configs import common

  c = common.config('docs', 'kd').train
  with c.unlocked():
    c.update(dict(batch_size=batch, steps=TURNS, seed=0) | changes)
  return c


def shapes(size: str, layers: dict[str, int] | None = None, vocab: int = 0, **knobs):
  """{role: (module without numbers, transformers' config)}; knobs: of families.spec."""
  import transformers

  from kdjax.models import encoders, families

  family, words, *sizes = SIZES[size]
  made = {}
  for role, shape in zip(('teacher', 'student', 'generator'), sizes, strict=True):
    depth, width, heads, inner = shape
    kind = dict(bert=transformers.BertConfig, roberta=transformers.RobertaConfig)[family]
    more = dict(type_vocab_size=1, max_position_embeddings=514) if family == 'roberta' else {}
    config = kind(
      vocab_size=vocab or words,
      hidden_size=width,
      num_hidden_layers=(layers or {}).get(role, depth),
      num_attention_heads=heads,
      intermediate_size=inner,
      num_labels=2,
      **(more | (dict(initializer_range=0.3) if size == 'tiny' else {})),
    )
    head = 'mlm' if role == 'generator' else 'classify'
    made[role] = encoders.abstract(families.spec(config, head=head, **knobs)), config
  return made


def build(size: str, layers: dict[str, int] | None = None, vocab: int = 0, **knobs):
  """{role: (module, transformers' config)}, random weights; arguments as of `shapes`."""
  from kdjax import net

  made = {}
  for seed, (role, (module, config)) in enumerate(shapes(size, layers, vocab, **knobs).items()):
    rng = np.random.default_rng(seed)

    def draw(path, leaf, rng=rng, std=config.initializer_range):
      if leaf.ndim > 1:
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * np.float32(std))
      value = 1.0 if 'scale' in jax.tree_util.keystr(path) else 0.0
      return jnp.full(leaf.shape, value, jnp.float32)  # a weak type would be traced twice

    params = jax.tree_util.tree_map_with_path(draw, net.split(module)[1])
    made[role] = net.fill(module, params), config
  return made


def ordinary(vocab: int) -> np.ndarray:
  """bool[V]: BERT's first thousand ids are special or unused."""
  return np.arange(vocab) >= min(1000, vocab // 2)


def text(vocab: int, rows: int, length: int, bank: int, seed: int = 0) -> dict[str, np.ndarray]:
  """A batch of random text, lengths from half the batch's to all of it."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(ordinary(vocab).argmax(), vocab, (rows, length)).astype(np.int32)
  sizes = rng.integers(length // 2, length + 1, rows)
  sizes[0] = length
  mask = np.arange(length)[None] < sizes[:, None]
  tokens[:, 0], tokens[np.arange(rows), sizes - 1] = 101, 102
  tokens = np.where(mask, tokens, 1)  # RoBERTa's padding; masked, whatever BERT's is
  return dict(
    tokens=tokens,
    segments=np.zeros_like(tokens),
    mask=mask,
    maskable=mask & ordinary(vocab)[tokens],
    label=rng.integers(0, 2, rows).astype(np.int32),
    index=rng.permutation(bank)[:rows].astype(np.int32),
  )


def labels(bank: int) -> np.ndarray:
  """i32[bank], of a training set of so many rows."""
  return np.arange(bank, dtype=np.int32) % 2


def world(made, dropout: bool = True):
  """(Env, parameters by role)."""
  from kdjax import env, net, tasks

  nets, params = {}, {}
  for role, (module, _) in made.items():
    nets[role], params[role] = net.split(module)
    if not dropout:
      nets[role] = env.quiet(nets[role])
  usable = jnp.asarray(ordinary(made['teacher'][1].vocab_size))
  task = tasks.KINDS['classes']
  writer = nets.get('generator')
  found = env.Env(nets['student'], nets['teacher'], task, usable, '', writer, MASK)
  return found, params


def roles(c) -> tuple[str, ...]:
  """The models that a method asks."""
  return ('teacher', 'student', 'generator')[: 3 if 'generator' in c else 2]


def useful(label: str, c, made, batch) -> float:
  """FLOPs of the matrix products that a step needs; label: a method, or it and ' generator'.

  A gradient costs two forward passes, with respect to inputs alone one. The compiler's own count
  is of what it compiled: a loop's body once, and slots that hold no hidden token.
  """
  B, L = batch['tokens'].shape
  spec = {role: module.spec for role, (module, _) in made.items()}
  spec.setdefault('generator', spec['student'])  # of methods that have none
  S, T, G = (
    B * L * m.layers * (8 * m.width**2 + 4 * m.width * m.ffn + 4 * L * m.width)
    for m in (spec['student'], spec['teacher'], spec['generator'])
  )
  V, D, E = spec['student'].vocab, spec['student'].width, spec['teacher'].width
  project = 2 * B * L * V * D
  hidden = c.rho * batch['maskable'].sum() if 'rho' in c else 0
  guess = 2 * hidden * V * spec['generator'].width
  words = 2 * hidden * V * (D + E)
  adversary = 2 * S + 2 * T + 3 * (G + guess) + 2 * words
  ascent = 2 * (S + T) * (c.steps if 'steps' in c else 0)
  flops = {
    'finetune': 3 * S,
    'kd': 3 * S + T,
    'codir': 3 * S + T,
    'augpro': 6 * S + 2 * T + project,
    'augpro_fgsm': 8 * S + 2 * T + project,
    'mate_kd': 6 * S + 2 * T + G + guess,
    'cilda': 6 * S + 2 * T + G + guess,
    'mate_kd generator': adversary,
    'cilda generator': adversary,
    'backward_kd': 6 * S + 2 * T + ascent,
  }
  return float(flops[label])


class Ours:
  """kdjax's side of a method: a program per player, compiled when it is first asked for.

  changes: of config.train.
  """

  def __init__(self, c, made, batch, bank: int, mesh=None, **changes):
    from kdjax import methods, sharding, train
    from kdjax.data import batches

    env, params = world({role: made[role] for role in made})
    method = methods.get(c.name)(c, env)
    mesh = mesh or sharding.make_mesh(-1)
    data = batches.Dataset(None, labels(bank), np.arange(bank, dtype=np.int32), None)
    params = {role: params[role] for role in roles(c)}
    fields_ = train_fields(len(batch['label']), **changes)
    game = train.start(method, params, data, fields_, TURNS, mesh)
    self.state, self.frozen, self.key = game.state, game.frozen, game.key
    self.batch = sharding.put(batch, mesh)
    if c.name == 'backward_kd':  # in its first round there are no samples
      self.state.memory['view']['clock'] = game.state.memory['view']['round'] + 1
    self._steps, self._programs = game.steps, {}

  def program(self, player: str):
    """The compiled step of a player."""
    if player not in self._programs:
      step = self._steps[player].lower(self.state, self.frozen, self.batch, self.key)
      self._programs[player] = step.compile()
    return self._programs[player]

  def costs(self, player: str) -> dict[str, float]:
    """FLOPs, bytes touched, and bytes of temporaries of a step."""
    found = self.program(player).cost_analysis()
    found = found[0] if isinstance(found, list) else found
    memory = self.program(player).memory_analysis()
    return dict(
      flops=float(found.get('flops', 0)),
      bytes=float(found.get('bytes accessed', 0)),
      temporary=getattr(memory, 'temp_size_in_bytes', 0),
      arguments=getattr(memory, 'argument_size_in_bytes', 0),
    )

  def run(self, player: str, steps: int) -> None:
    """So many steps, to their end."""
    program = self.program(player)
    for _ in range(steps):
      self.state, metrics = program(self.state, self.frozen, self.batch, self.key)
    jax.block_until_ready((self.state, metrics))


class Theirs:
  """torch's side of a method; compiled: its models are."""

  def __init__(self, name: str, c, folders, batch, bank: int, dtype: str, adamw: str, compiled):
    import torch

    from benchmarks import torch_steps

    self.torch, self.steps, self.name = torch, torch_steps, name
    self.device = 'cuda' if torch.cuda.is_available() and jax.default_backend() == 'gpu' else 'cpu'
    usable = torch.as_tensor(ordinary(_vocab(folders['teacher'])))
    folders = {role: folders[role] for role in roles(c)}
    whole = torch.as_tensor(labels(bank)).long()
    self.w = torch_steps.world(c, folders, usable, MASK, whole, self.device)
    if compiled:
      # Of the method before this one nothing is left, and no model is run uncompiled in silence
      # because others of its class were compiled before it.
      torch._dynamo.reset()
      torch._dynamo.config.recompile_limit = 64
      torch._dynamo.config.fail_on_recompile_limit_hit = True
      for role in folders:
        model = getattr(self.w, role)
        (model.base_model if role == 'generator' else model).compile()
    self.batch = tensors(batch, self.device)
    self.dtype = None if dtype == 'float32' else getattr(torch, dtype)
    t = train_fields(len(batch['label']))
    self.clip, self.moves = t.clip, {}
    for player in ('student', 'generator')[: 2 if 'generator' in c else 1]:
      params = torch_steps.owned(self.w, player)
      rate = c.gen_rate if player == 'generator' else t.rate
      betas = t.beta1, t.beta2
      made = torch_steps.adamw(params, rate, t.decay, betas, t.epsilon, TURNS, adamw)
      self.moves[player] = params, *made

  def run(self, player: str, steps: int) -> None:
    """So many steps, to their end."""
    self.steps.owned(self.w, player)
    loss = self.steps.LOSSES[self.name + (' generator' if player == 'generator' else '')]
    for _ in range(steps):
      self.steps.turn(self.w, loss, *self.moves[player], self.batch, self.clip, self.dtype)
    if self.device == 'cuda':
      self.torch.cuda.synchronize()


def _vocab(folder) -> int:
  return json.loads((pathlib.Path(folder) / 'config.json').read_text())['vocab_size']


def tensors(batch, device='cpu') -> dict:
  """A batch as transformers' users have it: int64, the mask as numbers."""
  import torch

  out = {k: torch.as_tensor(v) for k, v in batch.items()}
  out = {k: v if k == 'maskable' else v.long() for k, v in out.items()}
  return {k: v.to(device) for k, v in out.items()}


def save(made, where) -> dict[str, str]:
  """Each model as a folder that transformers reads."""
  from kdjax.models import hf

  return {role: str(hf.save(f'{where}/{role}', *model)) for role, model in made.items()}


def take_turns(runs: dict, rounds: int, clock=time.perf_counter) -> dict[str, list[float]]:
  """Seconds of each call in each round, after two that are not counted."""
  for call in runs.values():
    call()
    call()
  seconds = {name: [] for name in runs}
  for _ in range(rounds):
    for name, call in runs.items():
      begin = clock()
      call()
      seconds[name].append(clock() - begin)
  return seconds


def quartiles(x) -> list[float]:
  """[median, lower, upper]."""
  return [float(v) for v in np.percentile(x, [50, 25, 75])]


def peaks(dtype: str, side: int = 0, clock=time.perf_counter) -> dict[str, float]:
  """FLOP/s of a matrix product and bytes/s of an addition, the best of five."""
  gpu = jax.default_backend() != 'cpu'
  n, m, often = (side or 8192, 2**28, 10) if gpu else (side or 2048, 2**25, 1)
  # Drawn numbers: zeros and ones take less power, and a GPU multiplies them quicker.
  a = jax.random.normal(jax.random.key(0), (n, n), jnp.float32).astype(dtype)
  multiply = jax.jit(jnp.matmul)
  # In place: fresh pages of memory cost more than the bytes in them.
  long, more = [jnp.ones(m, jnp.float32)], jax.jit(lambda x: x + 1, donate_argnums=0)

  def add():
    for _ in range(often):
      long[0] = more(long[0])
    jax.block_until_ready(long[0])

  def product():
    jax.block_until_ready([multiply(a, a) for _ in range(often)])

  best = {k: min(v) for k, v in take_turns(dict(matmul=product, add=add), 5, clock).items()}
  return dict(flops=often * 2 * n**3 / best['matmul'], bandwidth=often * 8 * m / best['add'])


def machine() -> dict[str, str]:
  """Where it ran, and with what."""
  from importlib import metadata

  packages = [p for p in ('jax', 'flax', 'torch', 'transformers') if importlib.util.find_spec(p)]
  found = {p: metadata.version(p) for p in packages}
  found |= dict(device=jax.devices()[0].device_kind, cores=str(os.cpu_count()))
  return found | dict(python=platform.python_version(), load=f'{os.getloadavg()[0]:.1f}')


def row(seconds: dict, flops: float, costs: dict, peak: dict, steps: int) -> dict:
  """What is known of a step: seconds and ratio as [median, quartiles], and its arithmetic."""
  each = {side: [s / steps for s in found] for side, found in seconds.items()}
  out = {side: quartiles(found) for side, found in each.items()}
  out |= {f'best {side}': min(found) for side, found in each.items()}
  if 'kdjax' in each:
    for side in [side for side in each if side != 'kdjax']:
      out[f'{side} / kdjax'] = quartiles(np.divide(each[side], each['kdjax']))
  floor = flops / peak['flops']
  return (
    out
    | costs
    | dict(useful=flops, floor=floor)
    | {f'utilisation {side}': floor / out[side][0] for side in each}
  )


def main(argv) -> None:
  del argv
  allocator.keep_pages()
  theirs = [side for side in SIDES_.value if side != 'kdjax']
  if TF32.value and theirs:
    import torch

    torch.set_float32_matmul_precision('high')  # what jax does with float32 on a GPU
  made = build(SIZE.value, dtype=DTYPE.value, attention=ATTENTION.value)
  if not any('generator' in fields(name) for name in METHODS_.value):
    del made['generator']
  vocab = made['teacher'][1].vocab_size
  batch = text(vocab, BATCH.value, LENGTH.value, BANK.value)
  clock = dict(wall=time.perf_counter, cpu=time.process_time)[CLOCK.value]
  peak = peaks(DTYPE.value, clock=clock)
  said = f'{SIZE.value}, {BATCH.value} x {LENGTH.value}, {DTYPE.value}, {ATTENTION.value}'
  command = ' '.join(['python -m benchmarks.step', *sys.argv[1:]])
  found = dict(command=command, machine=machine(), what=said, peak=peak, rows={})
  print(f'{found["machine"]}\npeak {peak["flops"] / 1e9:,.0f} GFLOP/s, ', end='')
  print(f'{peak["bandwidth"] / 1e9:,.1f} GB/s', flush=True)
  with tempfile.TemporaryDirectory() as where:
    folders = save(made, where) if theirs else {}
    for name in METHODS_.value:
      c = fields(name)
      players = [p for p in ROLES[: 2 if 'generator' in c else 1] if p in PLAYERS.value]
      if not players:
        continue
      sides = {}
      if 'kdjax' in SIDES_.value:
        sides['kdjax'] = Ours(c, made, batch, BANK.value, prng=PRNG.value)
      for side in theirs:
        how = BANK.value, DTYPE.value, ADAMW.value, side == 'compile'
        sides[side] = Theirs(name, c, folders, batch, *how)
      for player in players:
        calls = {k: functools.partial(s.run, player, STEPS.value) for k, s in sides.items()}
        seconds = take_turns(calls, ROUNDS.value, clock)
        costs = sides['kdjax'].costs(player) if 'kdjax' in sides else {}
        label = name if player == 'student' else f'{name} generator'
        flops = useful(label, c, made, batch)
        found['rows'][label] = row(seconds, flops, costs, peak, STEPS.value)
        print(table({label: found['rows'][label]}), flush=True)
        if JSON.value:  # a run that is cut short leaves what it has
          report.write_json(pathlib.Path(JSON.value), found)
      del sides, calls
      gc.collect()
  print(f'\n{said}\n{table(found["rows"])}')


def table(rows: dict[str, dict]) -> str:
  """Markdown; of the sides that were run."""
  ms = lambda v: f'{1e3 * v[0]:.1f} ({1e3 * v[1]:.1f}-{1e3 * v[2]:.1f})'  # noqa: E731
  lines = []
  for name, r in rows.items():
    sides, cells = [side for side in SIDES if side in r], {'step': name}
    cells |= {f'{side} ms': ms(r[side]) for side in sides}
    for ratio in [f'{side} / kdjax' for side in SIDES if f'{side} / kdjax' in r]:
      best = r[f'best {ratio.split()[0]}'] / r['best kdjax']
      cells[ratio] = '{:.2f} ({:.2f}-{:.2f}), {:.2f}'.format(*r[ratio], best)
    cells |= {'GFLOP': f'{r["useful"] / 1e9:,.1f}', 'floor ms': f'{1e3 * r["floor"]:.1f}'}
    cells |= {f'of peak: {side}': f'{100 * r[f"utilisation {side}"]:.0f} %' for side in sides}
    units = dict(flops='GFLOP', bytes='GB')
    cells |= {f'{units[k]} compiled': f'{r[k] / 1e9:,.2f}' for k in units if k in r}
    lines.append(cells)
  return report.markdown(list(lines[0]), [list(cells.values()) for cells in lines])


if __name__ == '__main__':
  SIZE = flags.DEFINE_enum('size', 'minilm', list(SIZES), 'Of the models.')
  METHODS_ = choices.define('methods', METHODS, METHODS, 'By commas.')
  SIDES_ = choices.define('sides', SIDES[:2], SIDES, 'By commas.')
  PLAYERS = choices.define('players', ROLES, ROLES, 'Whose turns.')
  BATCH = flags.DEFINE_integer('batch', 32, 'Rows; on a GPU 32 and 128.')
  LENGTH = flags.DEFINE_integer('length', 64, 'Tokens a row; on a GPU 128.')
  BANK = flags.DEFINE_integer('bank', 8192, "Rows of the training set, and so of CoDIR's banks.")
  DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.')
  ATTENTION = flags.DEFINE_enum(
    'attention', 'einsum', ['einsum', 'xla', 'cudnn'], 'config.train.attention.'
  )
  PRNG = flags.DEFINE_string('prng', 'threefry2x32', 'config.train.prng.')
  ADAMW = flags.DEFINE_enum('adamw', 'fused', ['fused', 'foreach', 'default'], "Torch's AdamW.")
  TF32 = flags.DEFINE_bool('tf32', True, "Torch's float32 products on a GPU, as in jax.")
  CLOCK = flags.DEFINE_enum(
    'clock', 'wall', ['wall', 'cpu'], "cpu: of the process's threads, on a CPU that others use too."
  )
  ROUNDS = flags.DEFINE_integer('rounds', 7, 'That are timed.')
  STEPS = flags.DEFINE_integer('steps', 1, 'A round; ten or more on a GPU.')
  JSON = flags.DEFINE_string('json', '', 'A file for the numbers.')
  app.run(main)
