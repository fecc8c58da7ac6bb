"""Every family as every format: how far the logits of real rows are from those of kdjax.

python -m benchmarks.export_parity --rows=validation.parquet --text=sentence [--words=train.parquet]
  [--family=BERT ...] [--max_length=64]

Of each family a random classifier of a student's size (2 x 384, 12 heads) with a tokenizer of the
family's kind, trained on the column of --words (the rows themselves, where there is none). Norms
and biases are not trivial, and the last layer is scaled so that logits have a standard deviation of
2. Then --mode=export does what it always does, with its tolerance of 1e-4 for all but int8: a
family that is further off ends this with an error.
"""

import importlib.util
import itertools
import json
import os
import pathlib
import tempfile

import jax
import numpy as np
import tokenizers
import transformers
from absl import app, flags
from flax import traverse_util
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from configs import kd
from kdjax import exports, log, net, predict
from kdjax.data import files
from kdjax.models import hf
from kdjax.report import markdown

VOCABULARY = 8000
BERT = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
SENTENCEPIECE = ('<pad>', '<unk>', '[CLS]', '[SEP]', '[MASK]')
ROBERTA = ('<pad>', '<unk>', '<s>', '</s>', '<mask>')
SIZES = dict(
  num_hidden_layers=2, hidden_size=384, num_attention_heads=12, intermediate_size=1536,
  initializer_range=0.05, num_labels=2, max_position_embeddings=130,
)  # fmt: skip
V3 = dict(
  relative_attention=True, position_buckets=64, norm_rel_ebd='layer_norm', share_att_key=True,
  pos_att_type=['p2c', 'c2p'], position_biased_input=False, type_vocab_size=0,
)  # fmt: skip
# Name -> transformers' config, its own fields, kind of the tokenizer, special tokens, segments.
FAMILIES = {
  'BERT': ('Bert', {}, 'wordpiece', BERT, True),
  'RoBERTa': ('Roberta', dict(type_vocab_size=1), 'bytes', ROBERTA, False),
  'XLM-R': ('XLMRoberta', dict(type_vocab_size=1), 'unigram', ROBERTA, False),
  'DistilBERT': (
    'DistilBert',
    dict(n_layers=2, dim=384, n_heads=12, hidden_dim=1536),
    'wordpiece',
    BERT,
    False,
  ),
  'ELECTRA': ('Electra', dict(embedding_size=128), 'wordpiece', BERT, True),
  'ALBERT': ('Albert', dict(embedding_size=128), 'unigram', SENTENCEPIECE, True),
  'ModernBERT': ('ModernBert', dict(local_attention=32), 'bytes', BERT, False),
  'DeBERTa-v3': ('DebertaV2', V3, 'unigram', SENTENCEPIECE, True),
}


def tokenizer(kind: str, special: tuple[str, ...], segments: bool, texts: list[str]):
  """A tokenizer of this kind, trained on the texts."""
  pad, unk, cls, sep, mask = special
  size = dict(vocab_size=VOCABULARY, special_tokens=list(special), show_progress=False)
  if kind == 'wordpiece':
    core = tokenizers.Tokenizer(models.WordPiece(unk_token=unk))
    core.normalizer, core.pre_tokenizer = (
      normalizers.BertNormalizer(),
      pre_tokenizers.BertPreTokenizer(),
    )
    core.decoder, trainer = decoders.WordPiece(), trainers.WordPieceTrainer(**size)
  elif kind == 'bytes':
    core = tokenizers.Tokenizer(models.BPE(unk_token=unk))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **size)
  else:
    core = tokenizers.Tokenizer(models.Unigram())
    core.normalizer, core.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    core.decoder, trainer = decoders.Metaspace(), trainers.UnigramTrainer(unk_token=unk, **size)
  core.train_from_iterator(texts, trainer)
  core.post_processor = processors.TemplateProcessing(
    single=f'{cls} $A {sep}',
    pair=f'{cls} $A {sep} $B:1 {sep}:1',
    special_tokens=[(name, core.token_to_id(name)) for name in (cls, sep)],
  )
  names = ['input_ids', *['token_type_ids'] * segments, 'attention_mask']
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=core, pad_token=pad, unk_token=unk, cls_token=cls, sep_token=sep,
    mask_token=mask, model_max_length=128, model_input_names=names,
  )  # fmt: skip


def spread(module, seed: int):
  """The module with norms and biases that are not trivial."""
  draw = iter(jax.random.split(jax.random.key(seed), 1000))
  params = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(next(draw), x.shape) if x.ndim == 1 else x,
    net.split(module)[1],
  )
  return net.fill(module, params)


def scaled(module, by: float):
  """The module with logits that are so much larger."""
  params = traverse_util.flatten_dict(net.split(module)[1], sep='/')
  for leaf in ('head/out/kernel', 'head/out/bias'):
    if leaf in params:
      params[leaf] = params[leaf] * by
  return net.fill(module, traverse_util.unflatten_dict(params, sep='/'))


def classifier(folder: pathlib.Path, family: str, words: list[str], texts: list[str]) -> np.ndarray:
  """A folder of the family's random classifier; its logits of the texts."""
  kind, own, way, special, segments = FAMILIES[family]
  vocabulary = tokenizer(way, special, segments, words)
  ids = dict(
    vocab_size=len(vocabulary), pad_token_id=vocabulary.pad_token_id,
    bos_token_id=vocabulary.cls_token_id, eos_token_id=vocabulary.sep_token_id,
    cls_token_id=vocabulary.cls_token_id, sep_token_id=vocabulary.sep_token_id,
  )  # fmt: skip
  config = getattr(transformers, f'{kind}Config')(**SIZES | ids | own)
  module = spread(hf.build(config, seed=0), 1)
  for _ in range(2):
    hf.save(folder, module, config, vocabulary, labels=('negative', 'positive'))
    logits = predict.load(str(folder)).logits(texts)
    module = scaled(module, 2 / logits.std())
  return logits


def main(argv) -> None:
  del argv
  log.setup()
  if importlib.util.find_spec('torch') is None:
    raise SystemExit('error: a column is of transformers, which needs torch: pip install torch')
  c = kd.get_config('own')
  columns = files.read(ROWS.value)
  texts = list(itertools.islice(columns[TEXT.value], c.export.rows))
  words = list(files.read(WORDS.value or ROWS.value)[TEXT.value])
  lines = []
  with tempfile.TemporaryDirectory() as where:
    path = pathlib.Path(where)
    c.data.update(train=ROWS.value, validation=ROWS.value, text=TEXT.value, label=LABEL.value)
    c.data.max_length = LENGTH.value
    c.export.update(formats='stablehlo,onnx,int8', agreement=0.0)
    c.lock()
    for family in FAMILY.value or FAMILIES:
      print(f'\n{family}', flush=True)
      logits = classifier(path / family, family, words, texts)
      c.eval.model, c.export.dir = str(path / family), str(path / f'{family}.export')
      target = exports.export(c, path)
      said = json.loads((target / exports.REPORT).read_text(encoding='utf8'))
      found = said['formats']
      lines.append([
        family, str(said['rows']), f'{logits.min():.1f} to {logits.max():.1f}',
        *(f'{found[name]["difference"]:.1e}' for name in ('transformers', 'onnx', 'stablehlo')),
        f'{found["int8"]["difference"]:.1e}', f'{found["int8"]["agreement"]:.1%}',
      ])  # fmt: skip
  head = ['', 'rows', 'logits', 'transformers', 'onnx', 'stablehlo', 'int8', 'int8 decides alike']
  print(f'\n{markdown(head, lines)}\n{os.cpu_count()} cores, jax {jax.__version__}')


if __name__ == '__main__':
  ROWS = flags.DEFINE_string('rows', None, 'csv, tsv, jsonl or parquet.', required=True)
  TEXT = flags.DEFINE_string('text', 'text', 'Column of the text.')
  LABEL = flags.DEFINE_string('label', 'label', 'Column of the label.')
  WORDS = flags.DEFINE_string('words', '', 'A file of more text, for the tokenizers.')
  LENGTH = flags.DEFINE_integer('max_length', 64, 'Tokens of a text; longer ones are cut.')
  FAMILY = flags.DEFINE_multi_enum('family', None, list(FAMILIES), 'Of these alone.')
  app.run(main)
