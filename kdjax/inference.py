"""What trained models are asked: the modes eval and predict of the command line."""

import json
import pathlib

from kdjax import env, hosts, log, predict, report, roles, runs, seeds, sharding, staging

_COLUMNS = 'config.data.text', 'config.data.pair'
_UNNAMED = 'text', ''  # what those are where nobody sets them


def chosen(c, workdir: pathlib.Path) -> dict[int, pathlib.Path]:
  """By seed, the models that eval, predict and export take: config.eval.model, or this method's."""
  own = workdir / ('generator' if runs.alone(c) else c.name)
  found = {seed: folder / 'model' for seed, folder in runs.folders(c, own).items()}
  if c.eval.model:
    found = {c.seed: pathlib.Path(c.eval.model)}
  for where in found.values():
    if not where.is_dir():
      raise ValueError(f'no model in {where}: train first, or set config.eval.model')
  return found


def evaluation(c, workdir: pathlib.Path) -> dict[str, dict[str, float]]:
  """Score the chosen model on every labelled evaluation split (or config.eval.split).

  Of several seeds: their means, and beside them std and seeds.
  """
  models = chosen(c, workdir)
  first, longest = next(iter(models.values())), c.data.max_length
  if runs.masked(c):
    c, spec = env.settle(c)
    if spec.label:  # it has a validation split of its own, and the corpus is not scored
      c.data.update(unlabelled='', neighbours=1)
    plan = env.prepare(c, workdir, {'generator': first}, ('generator',), True)
    spec, text = plan.spec, plan.text
    cut = staging.placed(plan, 'generator', plan.generator)[0]
    scorer = staging.scorer(plan, 'generator', cut, plan.mesh)

    def scores(where: pathlib.Path, splits: list[str]) -> dict[str, dict[str, float]]:
      params = staging.placed(plan, 'generator', roles.load(c, spec, where, 'mlm'))[1]
      return {split: scorer(params, plan.data[split]) for split in splits}
  else:
    c, spec, text = env.read(c)

    def scores(where: pathlib.Path, splits: list[str]) -> dict[str, dict[str, float]]:
      classifier = _classifier(c, where, longest)
      classifier.check(spec)
      return {split: classifier.score(text.splits[split], spec) for split in splits}

  wanted = (c.eval.split,) if c.eval.split else spec.evaluation
  splits = [split for split in wanted if split in text.splits]
  for split in [split for split in wanted if split not in splits]:
    log.logger.info(f'{split}: not in {text.origin}')
  if not splits:
    raise ValueError(f'none of the splits {c.eval.split or spec.evaluation} is in {text.origin}')
  out = seeds.summary({seed: scores(where, splits) for seed, where in models.items()})
  if hosts.first():
    print(json.dumps(out, indent=2))  # before a folder that may not be written to
    report.write_json(workdir / 'eval.json', dict(model=str(first), metrics=out))
  return out


def _classifier(c, where: pathlib.Path, longest: int) -> predict.Classifier:
  """longest: config.data.max_length as it was given; 0: as the model was trained."""
  mesh = sharding.make_mesh(**c.mesh)
  return predict.load(str(where), c.eval.batch_size, longest or None, mesh)


def prediction(c, workdir: pathlib.Path) -> pathlib.Path:
  """Write what the chosen model predicts beside the rows of config.eval.data, or of a split."""
  if runs.masked(c):
    raise ValueError(
      f'a masked language model predicts no classes: method {c.method.name} has no --mode=predict'
    )
  where, longest = chosen(c, workdir)[c.seed], c.data.max_length
  if c.eval.data:
    c, spec = env.settle(c)
    if spec.images:
      raise ValueError(f'config.eval.data={c.eval.data} is a file of texts, {where} reads images')
    data = pathlib.Path(c.eval.data)
    path, clf = workdir / f'predictions.{data.name}', _classifier(c, where, longest)
    given = c.data.text, c.data.pair
    if spec.name not in ('own', 'docs') and given == _UNNAMED:
      given = (*spec.columns, '')[:2]  # as the files of a known task have them
    n = predict.file(clf, str(where), data, *given, path, flags=_COLUMNS)
  else:
    c, spec, text = env.read(c)
    split = c.eval.split or next(
      (s for s in ('test', 'validation') if s in text.splits), spec.evaluation[0]
    )
    if split not in text.splits:
      raise ValueError(f'no split {split!r} in {text.origin}: there are {", ".join(text.splits)}')
    path, clf = workdir / f'predictions.{split}.csv', _classifier(c, where, longest)
    n = predict.split(clf, str(where), text.splits[split], path)
  if hosts.first():
    print(f'{n:,} predictions of {where} in {path}')
  return path
