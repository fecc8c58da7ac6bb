"""How long the runs of a config will take, and how much memory: a few real steps are timed."""

import collections
import itertools
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import env, evaluate, feed, runs, sharding, staging, train
from kdjax.data import batches
from kdjax.methods import base

_BATCHES = 4  # whose answers are timed
_ENOUGH = 3.0  # seconds of steps that are timed


class Pace(NamedTuple):
  """What a step of one player takes, at the length that most of a run's places have.

  turns: of the run. length: of the batch that was timed; mean: of all batches; lengths: how many
  there are, a program each. seconds: a step.
  compile: seconds of one program. bytes: of a device, all that the program holds.
  """

  turns: int
  length: int
  mean: float
  lengths: int
  seconds: float
  compile: float
  bytes: int


class Run(NamedTuple):
  """Estimates of one run.

  seconds: in all, of which compiling, scoring, and telling: the teacher's answers that are kept.
  bytes: on a device, of the largest program.
  """

  paces: dict[str, Pace]
  programs: int
  seconds: float
  compiling: float
  scoring: float
  telling: float
  bytes: int


class Start(NamedTuple):
  """A run as it would begin.

  params: by role, of each seed. data, c, mesh: what it learns from, its config.train, where.
  """

  method: base.Method
  params: list[dict[str, Any]]
  data: batches.Dataset
  c: Any
  total: int
  mesh: sharding.Mesh


def of(plan: env.Plan, name: str) -> Run:
  """Each player's turns at the pace of a few of them, scaled by the lengths of the batches.

  Beside those: compiling, evaluations, and the teacher's answers where they are kept.
  """
  own, shapes = _begun(plan, name), staging.lengths_of(plan, name)
  kept, data = staging.keeps_answers(plan, name, own.method), own.data
  if kept:
    own = own._replace(data=data._replace(known=_blank(plan, own)))
  paces = _pace(own, shapes)
  turns = sum(p.turns * p.seconds * p.mean / p.length for p in paces.values())
  programs = sum(p.lengths for p in paces.values())
  compiling = sum(p.lengths * p.compile for p in paces.values())
  every = own.c.eval_every or batches.steps_per_epoch(len(data.index), own.c.batch_size)
  rounds = own.total // every + bool(own.total % every)
  rated = plan.data[plan.spec.evaluation[0]]
  scoring = 0.0
  if not (name == 'generator' or runs.masked(plan.c)):  # of those, it is left out
    scoring = rounds * len(own.params) * len(rated.index) / _rate(plan, name, rated)
  telling = len(data.index) / _rate(plan, 'teacher', data) if kept else 0.0
  total = turns + compiling + scoring + telling
  largest = max(p.bytes for p in paces.values())
  return Run(paces, programs, total, compiling, scoring, telling, largest)


def layout(plan: env.Plan, name: str) -> tuple[str, int]:
  """(where the arrays of a run will lie, and their bytes on a device; bytes of a checkpoint).

  Nothing is computed.
  """
  own = _begun(plan, name)
  state, frozen, _ = train.shapes(own.method, own.params, own.data, own.c, own.total, own.mesh)
  fits = feed.fitting(own.data, own.c.resident)
  saved = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
  return sharding.table(train.groups(state, frozen, fits), own.mesh, name), saved


def _begun(plan: env.Plan, name: str) -> Start:
  """A run before its first step; where one is finished that it follows, that is not read."""
  model, others = plan.student, {'teacher': plan.teacher}
  if name in ('teacher', 'generator'):
    model, others = getattr(plan, name), {}
  elif runs.uses_generator(plan.c, name):
    others['generator'] = plan.generator
  _, params, method = staging.staged(plan, name, model, others)
  data, c = staging.rows_of(plan, name), runs.fields(plan.c, name)
  params = [params] * len(runs.folders(plan.c, plan.workdir / name))
  total = staging.steps_of(plan, name)[0]
  return Start(method, params, data, c, total, staging.mesh_of(plan, name))


def _pace(own: Start, shapes: tuple[int, ...]) -> dict[str, Pace]:
  """Of each player who moves, its own programs played a few times.

  Compiled programs are kept (main.start): a run that follows does not compile these again.
  """
  data, c, total, mesh, many = own.data, own.c, own.total, own.mesh, len(own.params) > 1
  game = train.start(own.method, own.params, data, c, total, mesh)
  fits = feed.fitting(data, c.resident) is not None
  here = feed.place(data, mesh) if fits else None
  plan = batches.train_plan(data, c.batch_size, shapes, c.seed, 0, c.steps_per_call)
  per_epoch = batches.steps_per_epoch(len(data.index), c.batch_size)
  epoch = list(itertools.islice(plan, min(per_epoch, total, 10_000)))
  lengths = collections.Counter(L for L, _ in epoch)
  typical = max(lengths, key=lambda L: L * lengths[L])
  mean = sum(L * n for L, n in lengths.items()) / len(epoch)
  rows = next(rows for L, rows in epoch if typical == L)
  turns = collections.Counter(own.method.turn(step, total) for step in range(total))
  out, state = {}, game.state
  for player, n in turns.items():
    places = np.stack([rows] * len(own.params)) if many else rows
    first = next(step for step in range(total) if own.method.turn(step, total) == player)
    steps = min(c.steps_per_call, n)
    call = next(
      feed.calls(
        iter([(typical, places)] * steps), first, c.steps_per_call, lambda step, p=player: (p,),
        data, fits, batches.ALL if many else sharding.own(mesh, c.batch_size), mesh,
      )
    )  # fmt: skip
    begin = time.perf_counter()
    given = state, game.frozen, here, call.rows, steps, game.key
    program = game.calls[player].lower(call.length, *given).compile()
    compiled, held = time.perf_counter() - begin, program.memory_analysis()
    spent = []
    while len(spent) < 2 or (sum(spent) < _ENOUGH and len(spent) < 6):
      begin = time.perf_counter()
      state, _ = jax.block_until_ready(program(state, *given[1:]))
      spent.append(time.perf_counter() - begin)
      if spent[0] > _ENOUGH:  # long ones are not doubled
        break
    size = sum(
      getattr(held, f'{kind}_size_in_bytes', 0) for kind in ('argument', 'output', 'temp')
    ) - getattr(held, 'alias_size_in_bytes', 0)
    out[player] = Pace(
      n, typical, mean, len(lengths), float(np.median(spent[1:] or spent)) / steps, compiled, size
    )
  return out


def _blank(plan: env.Plan, own: Start) -> dict[str, np.ndarray]:
  """In the place of the teacher's answers: zeros of their shape."""
  net, params = plan.env.teacher, own.params[0]['teacher']
  outs = jax.eval_shape(net, params, net.dummy())
  n, (blocks, _, _, width) = len(own.data.index), outs.hidden.shape
  shapes = dict(teacher_logits=(n, outs.logits.shape[-1]))
  if own.method.asks != 'logits':
    shapes['teacher_states'] = n, blocks, width
  return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def _rate(plan: env.Plan, name: str, data: batches.Dataset) -> float:
  """Rows a second that a model answers: of a few batches, in which rows of one length meet."""
  model = plan.teacher if name == 'teacher' else plan.student
  sizes = plan.scoring
  cut, params = staging.placed(plan, name, model)
  n = _BATCHES * sizes[0]
  few = batches.part(data, np.arange(0, len(data.index), max(1, len(data.index) // n))[:n])
  run = evaluate.forward(cut, plan.mesh)
  call = lambda: evaluate.logits(run, params, few, *sizes)  # noqa: E731
  call()
  begin = time.perf_counter()
  call()
  return len(few.index) / (time.perf_counter() - begin)
