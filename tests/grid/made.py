"""A small grid.json of made-up numbers: two tasks, one of them at two sizes and with a set."""

import numpy as np


def grid() -> dict:
  rng = np.random.default_rng(0)
  rows = []
  for task, fraction in (('rte', 1.0), ('mnli', 0.1), ('mnli', 1.0)):
    for n, run in enumerate(('teacher', 'finetune', 'kd', 'aug_pro')):
      seeds = [0] if run == 'teacher' else [0, 1, 2]
      value = lambda k=n, s=seeds: [float(v) for v in 0.5 + 0.05 * k + 0.01 * rng.random(len(s))]  # noqa: E731
      student = run != 'teacher'
      other = dict(mean=0.02, low=-0.01, high=0.05, decided=False)
      better = dict(mean=0.03, low=0.01, high=0.05, decided=True)
      sets = dict(hans={'accuracy': value(), 'lexical, entailment': value()})
      rows.append(
        dict(
          task=task, fraction=fraction, run=run, seeds=seeds, rows=100, kind='classes',
          labels=['entailment', 'neutral', 'contradiction'], metrics=['accuracy'],
          chosen='development', parameters=1_000_000, workdirs=[task],
          asked=dict(search=False, ood_dir='/home/me/sets'),
          classes=dict(hans=['entailment', 'non-entailment']) if task == 'mnli' else {},
          scores=dict(development=dict(accuracy=value()), validation=dict(accuracy=value())),
          ood=sets if task == 'mnli' else {},
          agreement={'validation': dict(same=value(), kl=value())} if student else {},
          curve=dict(step=[1, 2], accuracy=[[0.4, 0.5]] * len(seeds)),
          cost=dict(
            steps=2.0, seconds=n + 1.0, examples_per_second=10.0, latency_ms=2.0, faster=1.0,
            relative=(n + 1) / 3,
          ),
          fields=dict(also=dict(name='cilda') if n == 3 else {}),
          samples=[['a <b>', 'neutral', 'neutral 0.9', 'a & c', 'entailment 0.5']] * (n == 3),
          difference={} if n in (0, 2) else {'validation': other if n == 1 else better},
          share={'validation': 0.83 if task == 'rte' else None} if n > 1 else {},
        )
      )  # fmt: skip
  return dict(
    rows=rows, resamples=10, base='kd', student='finetune', versions=dict(jax='1'),
    device='1 x cpu',
    commands=[
      'python -m kdjax.reproduce --config=configs/grid.py --config.data.dir=/home/me/glue '
      "--config.grid.text=me/text.parquet '--config.teacher.init=/home/me/a model' --config.seeds=3"
    ],
    configs={'rte: rte': dict(seed=0)},
  )  # fmt: skip
