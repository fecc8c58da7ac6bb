"""How long the runs of a config will take, and how much memory: a few real steps are timed."""

import time
from typing import NamedTuple

import jax
import numpy as np

from kdjax import env, evaluate, jobs, runs, train
from kdjax.data import batches

_BATCHES = 4  # whose answers are timed


class Run(NamedTuple):
  """Estimates of one run.

  seconds: in all, of which compiling, scoring, and telling: the teacher's answers that are kept.
  bytes: on a device, of the largest program.
  """

  paces: dict[str, train.Pace]
  programs: int
  seconds: float
  compiling: float
  scoring: float
  telling: float
  bytes: int


def of(plan: env.Plan, name: str) -> Run:
  """Each player's turns at the pace of a few of them, scaled by the lengths of the batches.

  Beside those: compiling, evaluations, and the teacher's answers where they are kept.
  """
  own, shapes = jobs.begun(plan, name), jobs.lengths_of(plan, name)
  kept = jobs.keeps_answers(plan, name, own.method)
  data = own.data._replace(known=_blank(plan, own)) if kept else own.data
  paces = train.pace(own.method, own.params, data, own.c, own.total, shapes, own.mesh)
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


def _blank(plan: env.Plan, own: jobs.Start) -> dict[str, np.ndarray]:
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
  cut, params = jobs.placed(plan, name, model)
  n = _BATCHES * sizes[0]
  few = batches.part(data, np.arange(0, len(data.index), max(1, len(data.index) // n))[:n])
  run = evaluate.forward(cut, plan.mesh)
  call = lambda: evaluate.logits(run, params, few, *sizes)  # noqa: E731
  call()
  begin = time.perf_counter()
  call()
  return len(few.index) / (time.perf_counter() - begin)
