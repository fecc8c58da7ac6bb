"""What a frozen teacher says of each training row, computed once and kept on disk.

The teacher has no dropout, so that its logits (and one vector a layer, where a method reads those)
are the same in every epoch: a run that sees a row twice pays for the teacher once.
"""

import hashlib
import json
import os
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import evaluate, hosts, log, quote, report
from kdjax.data import batches
from kdjax.methods import layers

_CHUNK = 4096  # rows computed between two saves: what a kill can cost
_LARGEST = 1 << 33  # bytes; of hidden states that need more, logits alone are kept
_FORMAT = 1  # raise it when the array changes its meaning: older ones are then not found


def known(
  net,
  params: Any,
  data: batches.Dataset,
  asks: str,
  cache: pathlib.Path,
  batch_size: int,
  buckets: tuple[int, ...],
  mesh,
) -> dict[str, np.ndarray]:
  """By key of the batch: teacher_logits f32[n, C]; teacher_states f32[n, N+1, D] if asked for.

  Mapped from a file in `cache` that is found again by the teacher's parameters and functions, and
  the token ids. It is written chunk by chunk with a sum of each: a run that is killed goes on
  there, and what is damaged is computed anew.

  Args:
    net, params: the teacher. asks: 'logits'; 'first' or 'mean': states pooled so, too.
    batch_size, buckets, mesh: of the computation, as in evaluate.logits. Of several hosts all
      compute, and the first one writes.
  """
  outs = jax.eval_shape(net, params, net.dummy())
  classes, (blocks, _, _, width) = outs.logits.shape[-1], outs.hidden.shape
  pooled = asks != 'logits'
  columns = classes + blocks * width * pooled

  def row(params, batch):
    """f32[B, columns]: logits, then layer after layer."""
    out = net(params, batch)
    if not pooled:
      return out.logits
    states_NBD = layers.states(net, batch, out.hidden, asks)
    return jnp.concatenate([out.logits, *states_NBD], -1)

  n = len(data.index)
  if pooled and 4 * n * columns > _LARGEST:
    log.logger.info(
      f"{4 * n * columns / 1e9:.0f} GB of the teacher's hidden states are not kept, logits are"
    )
    return known(net, params, data, 'logits', cache, batch_size, buckets, mesh)
  path = cache / f'teacher-{_fingerprint(net, params, data, asks)}.npy'
  sums = path.with_suffix('.json')
  offset, done = _opened(path, sums, (n, columns)) if hosts.first() else (0, [])
  done = hosts.agree(lambda: done)
  starts = range(0, n, _CHUNK)
  if len(done) < len(starts):
    began, run = time.perf_counter(), evaluate.compiled(row, mesh)
    for start in starts[len(done) :]:
      part = batches.part(data, slice(start, start + _CHUNK))
      found = evaluate.logits(run, params, part, batch_size, buckets, mesh)
      if hosts.first():
        _write(path, offset + 4 * columns * start, found)
        done.append(_sum(found))
        report.write_json(sums, done)
    hosts.meet()
    log.logger.info(f"teacher's answers to {n:,} rows: {time.perf_counter() - began:.1f} s, {path}")
  else:
    log.logger.info(f"teacher's answers to {n:,} rows read from {path}")
  array = np.asarray(np.load(path, mmap_mode='r'))  # plain: rows of a memmap would be memmaps too
  answers = dict(teacher_logits=array[:, :classes])
  if pooled:
    answers['teacher_states'] = array[:, classes:].reshape(n, blocks, width)
  return answers


def _opened(path: pathlib.Path, sums: pathlib.Path, shape: tuple[int, int]):
  """(bytes before the array on disk, sums of its chunks, up to the first that is not whole)."""
  try:
    wanted = json.loads(sums.read_text(encoding='utf8'))
    array = np.load(path, mmap_mode='r')
    if array.shape != shape or array.dtype != np.float32 or not isinstance(wanted, list):
      raise ValueError(f'{array.dtype}{list(array.shape)}, not f32{list(shape)}')
  except Exception as error:  # a damaged header fails in many ways
    if not isinstance(error, FileNotFoundError):
      log.logger.warning(f'{path} is damaged ({quote.error(error)}): it is made anew')
    path.parent.mkdir(parents=True, exist_ok=True)
    sums.unlink(missing_ok=True)
    return np.lib.format.open_memmap(path, 'w+', np.float32, shape).offset, []
  done = []
  for n, said in enumerate(wanted):
    if _sum(array[n * _CHUNK : (n + 1) * _CHUNK]) != said:
      log.logger.warning(f'{path} is damaged from row {n * _CHUNK} on: that is made anew')
      break
    done.append(said)
  return array.offset, done


def _write(path: pathlib.Path, offset: int, rows: np.ndarray) -> None:
  """Not through the map: where a disk is full, that ends the process without a word."""
  try:
    with path.open('r+b') as file:
      file.seek(offset)
      file.write(np.ascontiguousarray(rows))
      os.fsync(file.fileno())
  except OSError as error:
    raise OSError(
      f'{path}: {error.strerror}. Make room there, and start the same command again; '
      "config.teacher.cache='never' needs none"
    ) from error


def _sum(rows: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(rows)).hexdigest()


def _fingerprint(net, params, data: batches.Dataset, asks: str) -> str:
  """Hex digest of all that decides the numbers."""
  ids = data.tokens if data.teacher is None else data.teacher
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
  # Heads, epsilons, activations: the same weights may be of several functions.
  program = jax.jit(net).lower(shapes, net.dummy()).as_text()
  said = [_FORMAT, asks, program, evaluate.digest(params)]
  digest = hashlib.sha256(json.dumps(said).encode())
  for array in ids:
    batches.hashed(digest, array)
  return digest.hexdigest()[:32]
