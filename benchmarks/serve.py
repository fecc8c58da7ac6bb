"""Requests a second and latencies of kdjax.serve, by clients that ask one after another.

python -m benchmarks.serve [--clients=1,16,64] [--seconds=10] [--words=8,24] [-- --wait_ms=0 ...]

A random student of MiniLM's width (2 x 384, 30,522 words) in a process of its own; what is behind
`--` are flags of kdjax.serve. Each client keeps a connection, sends one text of 8 to 24 words, and
sends the next when it has the answer. The clients share the machine with the service, and take
little of it: they are bare sockets.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

from kdjax.report import markdown
from tests import toy

VOCABULARY = 30_522


def student(where: str) -> None:
  """A random model and a tokenizer of whole words."""
  import transformers

  from kdjax.models import hf

  words = [f'w{n}' for n in range(VOCABULARY - len(toy.SPECIAL))]
  tokenizer = toy.tokenizer(words)
  tokenizer.model_max_length = 512
  config = transformers.BertConfig(
    vocab_size=VOCABULARY, hidden_size=384, num_hidden_layers=2, num_attention_heads=12,
    intermediate_size=1536, max_position_embeddings=512, num_labels=2,
  )  # fmt: skip
  hf.save(where, hf.build(config), config, tokenizer)


def requests(rng: np.random.Generator, n: int, least: int, most: int) -> list[bytes]:
  """Whole requests, head and body."""
  out = []
  for count in rng.integers(least, most + 1, n):
    text = ' '.join(f'w{i}' for i in rng.integers(VOCABULARY - len(toy.SPECIAL), size=count))
    body = json.dumps(dict(inputs=[text])).encode()
    head = 'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
    out.append(f'{head}Content-Length: {len(body)}\r\n\r\n'.encode() + body)
  return out


async def client(port: int, asked: list[bytes], until: float) -> list[float]:
  """Seconds of each answer that came before this time."""
  reader, writer = await asyncio.open_connection('127.0.0.1', port)
  seconds, n = [], 0
  while (begun := time.perf_counter()) < until:
    writer.write(asked[n % len(asked)])
    head = await reader.readuntil(b'\r\n\r\n')
    if not head.startswith(b'HTTP/1.1 200'):
      raise RuntimeError(head.decode())
    await reader.readexactly(int(re.search(rb'content-length: (\d+)', head)[1]))
    if (now := time.perf_counter()) < until:
      seconds.append(now - begun)
    n += 1
  writer.close()
  return seconds


async def load(port: int, clients: int, seconds: float, words: list[int]) -> list[float]:
  """Seconds of all answers."""
  rng = np.random.default_rng(0)
  asked = [requests(rng, 64, *words) for _ in range(clients)]
  until = time.perf_counter() + seconds
  found = await asyncio.gather(*(client(port, own, until) for own in asked))
  return [s for own in found for s in own]


def main(argv) -> None:
  words = [int(n) for n in WORDS.value]
  rows = []
  with tempfile.TemporaryDirectory() as where:
    student(where)
    command = [sys.executable, '-m', 'kdjax.serve', where, '--port=0', *argv[1:]]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
      for line in service.stderr:
        if found := re.search(r'http://.*:(\d+)$', line):
          break
      else:
        raise RuntimeError('the service did not start')
      for count in map(int, CLIENTS.value):
        asyncio.run(load(int(found[1]), count, 2.0, words))
        taken = asyncio.run(load(int(found[1]), count, SECONDS.value, words))
        p50, p95 = 1e3 * np.percentile(taken, (50, 95))
        rate = len(taken) / SECONDS.value
        rows.append([str(count), f'{rate:.0f}', f'{p50:.1f}', f'{p95:.1f}'])
        print(rows[-1], flush=True)
    finally:
      service.terminate()
      service.wait()
  print(f'{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, flags {argv[1:]}')
  print(markdown(['clients', 'requests/s', 'p50 ms', 'p95 ms'], rows))


if __name__ == '__main__':
  CLIENTS = flags.DEFINE_list('clients', ['1', '16', '64'], 'How many at a time.')
  SECONDS = flags.DEFINE_float('seconds', 10.0, 'Of each number of clients, after 2 of warming.')
  WORDS = flags.DEFINE_list('words', ['8', '24'], 'Least and most of a text.')
  app.run(main)
