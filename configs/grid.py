"""Tasks x methods x seeds: what kdjax.reproduce runs and tabulates.

python -m kdjax.reproduce --config=configs/grid.py[:NAME] --workdir=DIR

quick (the default): embedded text, three minutes on 2 CPU cores, not for comparison. glue_low: a
tenth of the large train splits, all of the small ones (AugPro's low-data setting). glue: all of it.
ood: tasks with test sets from elsewhere. In the last three a part of train chooses checkpoints, and
the task's validation split is a test that chooses nothing. text: of glue_low, KD, PKD of every
token, and AugPro, as they are and with grid.text, a file of more text without labels
(--config.grid.text=FILE; what benchmarks.texts writes of other tasks, or your own). pairs: the same
with data.new_pairs, pairs of the task's own texts, of tasks of pairs; text has kd_both and its like
too, which learn from both (--config.grid.methods=kd,kd_text,kd_both). search: four trials of each
method, the first with what ships, for a third of glue_low's steps, scored on that part of train
alone; what wins goes into of_method by hand.
"""

from ml_collections import ConfigDict

from configs import common

_TASKS = 'cola,sst2,mrpc,stsb,qqp,mnli,qnli,rte'
_SMALL = ('cola', 'mrpc', 'stsb', 'rte')  # a tenth of them is 224 to 770 rows
_METHODS = (
  'finetune,kd,augpro,augpro_fgsm,mate_kd,cilda,codir,backward_kd,augpro_codir,augpro_cilda,'
  'augpro_tokens,pkd,pkd_tokens,rail_kd,mixkd,freelb,token_replace,annealing_kd,continuation_kd,comkd'
)
_SETS = (
  'imdb,cad_imdb_original,cad_imdb_revised,hans,scitail,sick,cad_nli_original,'
  'cad_nli_revised_premise,paws_qqp,paws_wiki'
)

# What a search tries of a method, beside what ships. Rates are tried of fine-tuning alone: one that
# suits a third of the steps is not one for all of them.
_HALF, _MORE = dict(portion=0.5), dict(augmented=2.0)  # fewer tokens open; weight of the new text
# Neighbours of the mixture that are neither of its two tokens, which is what l2 gives back.
_THIRD = dict(metric='centred', forbid_own=True)
_MIXED = (_HALF, _THIRD, _HALF | _MORE)
_FEWER, _LOUDER = dict(rho=0.15), dict(augmented=2 / 3)
_TRIED = dict(
  finetune=({},) * 3,
  kd=(dict(temperature=2.0), dict(temperature=4.0), dict(hard=0.1)),
  augpro=_MIXED,
  augpro_fgsm=(_HALF, dict(epsilon=0.15), _HALF | _MORE),
  mate_kd=(_FEWER, _LOUDER, _FEWER | _LOUDER),
  cilda=(_FEWER, (gold := dict(augmented=1 / 9, hard_new=2 / 9)), _FEWER | gold),
  codir=(dict(weight=1.0), dict(temperature=1.0), dict(pool='mean')),
  backward_kd=(dict(cap=0.5), _MORE, dict(rate=0.1)),
  augpro_codir=_MIXED,
  augpro_cilda=_MIXED,
  augpro_tokens=_MIXED,
  pkd=(dict(weight=10.0), dict(temperature=1.0), dict(pool='mean')),
  pkd_tokens=(dict(weight=1.0), dict(weight=20.0), dict(weight=20.0, hard=0.1)),
  rail_kd=(dict(weight=0.1), dict(weight=1.0), dict(kind='layer')),
  mixkd=(dict(alpha=1.0), dict(hard_new=0.0), _MORE),
  freelb=(dict(radius=0.2), dict(radius=0.4), dict(target='teacher')),
  token_replace=(dict(portion=0.2), dict(candidates=5), _MORE),
  annealing_kd=(dict(t_max=3), dict(t_max=14), dict(phases=(9, 9))),
  continuation_kd=(dict(t_max=5), dict(margin=0.01), dict(margin=1.0)),
  comkd=(dict(t_max=5), dict(phases=(20, 20)), _FEWER),
)
_ALONE = (3e-4, 1e-4, 6e-4, 1e-3)


def get_config(name: str = ''):
  """The fields of all runs, and config.grid."""
  name = name or 'quick'
  settings = dict(
    quick=_quick,
    glue_low=_glue_low,
    glue=_glue,
    ood=_ood,
    text=_text,
    pairs=_pairs,
    search=_search,
  )
  if name not in settings:
    raise ValueError(f'configs/grid.py:{name}: it is one of {", ".join(settings)}')
  c = common.config('', 'kd')
  for field in ('name', 'compare', 'method'):  # grid.methods says it
    del c[field]
  c.seeds = 3  # students of one teacher, in one program; 1: --seeds has a teacher each
  c.grid = ConfigDict()
  c.grid.tasks = ''  # by commas
  c.grid.methods = ''  # by commas, in the order of the table; finetune and kd make it whole
  c.grid.fractions = (1.0,)  # shares of the training rows; the teacher learns from the same rows
  c.grid.ood = ''  # by commas: sets of kdjax/data/ood.py; each is for the models of its task
  c.grid.ood_dir = ''  # <dir>/<set>/<split>.parquet (or jsonl, tsv, csv); '': the hub
  c.grid.ood_rows = 0  # of a set at most, a seeded choice; 0: all
  # Training rows that a share left out are scored too, as train_rest: so many at most; 0: none.
  c.grid.rest = 0
  # Fields that differ: dict(rte=dict(train=dict(epochs=10.0))) of a task, of a method
  # dict(augpro=dict(train=dict(rate=1e-4), baselines=dict(augpro=dict(alpha=0.4)))), the last word.
  c.grid.of_task = ConfigDict()
  c.grid.of_method = ConfigDict()
  c.grid.search = False  # nothing but the split that chooses is read: runs are <method>_<trial>
  settings[name](c)
  return c


def _quick(c) -> None:
  c.grid.tasks = 'docs'
  c.grid.methods = 'finetune,kd,augpro'
  c.seeds = 2
  c.data.update(max_length=16, train_size=640)
  c.teacher.steps = 32
  c.train.update(steps=24, eval_every=12, tensorboard=False)


def _glue_low(c) -> None:
  _glue(c)
  c.grid.fractions = (0.1,)
  c.grid.rest = 10000
  for task in _SMALL:
    c.grid.of_task.update({task: dict(data=dict(train_fraction=1.0))})


def _glue(c) -> None:
  c.grid.tasks = _TASKS
  c.grid.methods = _METHODS
  c.data.development = 0.1
  c.student.pick = 'every'  # the third layer and the sixth of six: docs/findings.md
  # A part of train that is no larger than it need be: all runs are scored on it each epoch.
  c.grid.of_task = ConfigDict(
    {task: dict(data=dict(development=2000.0)) for task in ('sst2', 'qqp', 'mnli', 'qnli')}
  )
  c.grid.of_task.sst2.teacher = dict(epochs=3.0, rate=1e-4)
  c.grid.of_task.cola = dict(teacher=dict(epochs=6.0, rate=1e-4))


def _ood(c) -> None:
  _glue(c)
  c.grid.tasks = 'sst2,mnli,qqp'
  c.grid.ood = _SETS


def _text(c) -> None:
  _glue_low(c)
  c.grid.text = ''  # file, folder or pattern, as config.data.unlabelled
  c.grid.pair = 'pair'  # of tasks of pairs: the column of second texts
  text = dict(unlabelled=c.grid.get_ref('text'), pair=c.grid.get_ref('pair'))
  c.grid.methods = _beside(c, 'text', 2.0, text)
  _beside(c, 'both', 1.0, text | dict(new_pairs=10))  # of tasks of pairs; where grid.methods says


def _pairs(c) -> None:
  _glue_low(c)
  c.grid.tasks = ','.join(task for task in _TASKS.split(',') if task not in ('cola', 'sst2'))
  # Less than four times the steps without them.
  c.grid.methods = _beside(c, 'pairs', 1.0, dict(new_pairs=10))


def _beside(c, what: str, epochs: float, more: dict) -> str:
  """By commas: runs as they are, and with rows beside those of train that have no label."""
  names = ['finetune']
  for method in ('kd', 'pkd_tokens', 'augpro'):
    names += [method, name := f'{method}_{what}']
    # Of a batch few rows have a gold label, and their weight is that of the mean over those few.
    c.baselines[name] = c.baselines[method].to_dict() | dict(hard=0.1)
    c.grid.of_method[name] = dict(data=more, train=dict(epochs=epochs))
  return ','.join(names)


def _search(c) -> None:
  _glue_low(c)
  c.grid.search = True
  c.train.epochs = 1.0
  c.teacher.cache = 'always'  # an epoch of each, and many of them
  # Its round as it ships is all of that epoch, and the first round has no samples.
  c.baselines.backward_kd.round = 0.25
  names = []
  for method in _METHODS.split(','):
    for n, fields in enumerate(({}, *_TRIED[method])):
      name = f'{method}_{n}'
      c.baselines[name] = c.baselines[method].to_dict() | fields
      if method == 'finetune':
        c.grid.of_method[name] = dict(train=dict(rate=_ALONE[n]))
      names.append(name)
  c.grid.methods = ','.join(names)
