"""A toy task on disk: a teacher folder with a tokenizer, and files with a learnable label."""

import csv
import json
import pathlib

import numpy as np
import pytest

from tests import tiny

BAD = ['bad', 'awful', 'dull', 'weak', 'poor']
GOOD = ['good', 'great', 'bright', 'strong', 'rich']
WORDS = [*BAD, *GOOD, 'a', 'the', 'film', 'plot', 'it', 'was', 'and', 'is']
SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']


def tokenizer(words=WORDS):
  """A WordPiece tokenizer of whole words, as a BERT folder would hold it."""
  import tokenizers
  import transformers

  vocab = {w: i for i, w in enumerate([*SPECIAL, *words])}
  core = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token='[UNK]'))
  core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  core.post_processor = tokenizers.processors.BertProcessing(
    ('[SEP]', vocab['[SEP]']), ('[CLS]', vocab['[CLS]'])
  )
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=core,
    pad_token='[PAD]',
    unk_token='[UNK]',
    cls_token='[CLS]',
    sep_token='[SEP]',
    mask_token='[MASK]',
    model_max_length=32,
  )


def model(
  where: pathlib.Path, words=WORDS, labels: int = 2, layers: int = 2, kind: str = 'Bert', **own
) -> pathlib.Path:
  """A random classifier with that tokenizer; kind: of transformers' configs, own: its fields."""
  import transformers

  from kdjax.models import hf

  config = getattr(transformers, f'{kind}Config')(
    vocab_size=len(words) + len(SPECIAL),
    hidden_size=16,
    num_hidden_layers=layers,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
    num_labels=labels,
    initializer_range=0.2,
    pad_token_id=0,
    **own,
  )
  hf.save(where, hf.build(config), config, tokenizer(words))
  return where


def rows(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
  """(text, label): the label says whether the good words outnumber the bad ones."""
  out = []
  for _ in range(n):
    words = list(rng.choice(WORDS, rng.integers(3, 9)))
    score = sum((w in GOOD) - (w in BAD) for w in words)
    out.append((' '.join(words), 'pos' if score > 0 else 'neg'))
  return out


def file(path: pathlib.Path, rng: np.random.Generator, n: int, columns=('text', 'label')):
  """A csv of such rows."""
  with path.open('w', newline='') as f:
    writer = csv.writer(f)
    writer.writerow(columns)
    writer.writerows(rows(rng, n))
  return path


def config(method: str, folder: pathlib.Path, rng: np.random.Generator, **changes):
  """A whole config on a toy task in this folder."""
  import importlib

  c = importlib.import_module(f'configs.{method}').get_config('own')
  c.data.train = str(file(folder / 'train.csv', rng, 96))
  c.data.validation = str(file(folder / 'validation.csv', rng, 40))
  c.data.max_length = 12
  c.data.buckets = ()
  c.teacher.init = str(model(folder / 'base'))
  c.teacher.steps = 4
  c.student.layers = 1
  c.generator.update(dict(layers=1, steps=4))
  c.train.update(dict(batch_size=16, steps=4, eval_every=2, log_every=2, tensorboard=False))
  c.eval.batch_size = 16
  if 'round' in c.method:
    c.method.round = 0.1  # a round as it ships is longer than such a run
  c.update_from_flattened_dict(changes)
  return c.lock()


def left(workdir: pathlib.Path) -> dict:
  """All that a run leaves and that must not depend on what happened to it."""
  found = {}
  for path in sorted(workdir.rglob('*')):
    name = str(path.relative_to(workdir))
    if path.name == 'model.safetensors':
      found[name] = path.read_bytes()
    elif path.name == 'log.jsonl':
      found[name] = tiny.logged(path.parent)
    elif path.name in ('result.json', 'results.json'):
      untimed = lambda row: {k: v for k, v in row.items() if 'second' not in k}  # noqa: E731
      found[name] = json.loads(path.read_text(), object_hook=untimed)
  return found


def check_torch_reads_masked(folder: pathlib.Path) -> None:
  """transformers' AutoModelForMaskedLM reads every weight of the folder; its logits are ours."""
  torch = pytest.importorskip('torch')
  import jax
  import transformers

  from kdjax import net
  from kdjax.models import hf

  kind = transformers.AutoModelForMaskedLM
  model, report = kind.from_pretrained(folder, output_loading_info=True)
  assert not any(report[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
  x = transformers.AutoTokenizer.from_pretrained(folder)('the [MASK] was good', return_tensors='pt')
  with torch.no_grad():
    want = model.eval()(**x).logits.numpy()
  ours, params = net.split(hf.load(folder, head='mlm')[0])
  ids = x['input_ids'].numpy().astype(np.int32)
  batch = dict(tokens=ids, segments=0 * ids, mask=ids >= 0)
  got = jax.jit(lambda p: ours(p, batch).logits)(params)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
