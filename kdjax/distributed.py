"""Several processes of one run, on one host or many, find each other before any device is used."""

import re

FORMS = "--distributed is 'auto' (TPU pod, GKE, Slurm) or host:port,count,id"


def parse(value: str) -> dict | None:
  """Arguments of jax.distributed.initialize: None for one process, {} for what jax finds itself.

  Raises:
    ValueError: neither '', nor 'auto', nor host:port,count,id with id among count processes.
  """
  if value in ('', 'auto'):
    return {} if value else None
  found = re.fullmatch(r'([^,\s]+:[0-9]{1,5}),([0-9]+),([0-9]+)', value)
  if not found:
    raise ValueError(f'{FORMS}, not {value!r}')
  address, count, process = found[1], int(found[2]), int(found[3])
  if not 0 < int(address.rpartition(':')[2]) < 2**16:
    raise ValueError(f'{FORMS}: the port of {value!r} is none of 1 to 65535')
  if process >= count:
    raise ValueError(f'{FORMS}: of {count} processes none has id {process}; they count from 0')
  return dict(coordinator_address=address, num_processes=count, process_id=process)


def start(value: str) -> None:
  """Join the other processes; returns when all are there.

  Raises:
    ValueError: what `parse` says, or 'auto' outside a cluster.
  """
  arguments = parse(value)
  if arguments is None:
    return
  import jax  # after the check: it takes a second

  try:
    jax.distributed.initialize(**arguments)
  except ValueError as e:  # jax names the argument that it could not find out
    raise ValueError(f'--distributed={value}: {e} {FORMS}') from e
