"""gke_jobset.yaml, by the schema and by what is done at each exit."""

import pytest
import yaml

from tests.launch.commands import LAUNCH


def _job_set():
  return yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())


def test_the_jobset_starts_again_after_75_or_a_disruption_and_fails_otherwise():
  spec = _job_set()['spec']
  (job,) = (r['template']['spec'] for r in spec['replicatedJobs'])
  pod = job['template']['spec']
  (container,) = pod['containers']
  assert '--distributed=auto' in container['args']
  assert pod['terminationGracePeriodSeconds'] >= 60 and pod['restartPolicy'] == 'Never'
  assert job['parallelism'] == job['completions'] and job['backoffLimit'] == 0
  disrupted, error = job['podFailurePolicy']['rules']  # the first that matches
  assert disrupted['action'] == 'Count'
  assert disrupted['onPodConditions'] == [dict(type='DisruptionTarget', status='True')]
  assert error['action'] == 'FailJob' and error['onExitCodes']['operator'] == 'NotIn'
  assert 75 in error['onExitCodes']['values']
  assert error['onExitCodes']['containerName'] == container['name']
  (rule,) = spec['failurePolicy']['rules']
  assert rule['action'] == 'FailJobSet' and rule['onJobFailureReasons'] == ['PodFailurePolicy']
  assert spec['failurePolicy']['maxRestarts'] >= 100
  mounts = {m['name'] for m in container['volumeMounts']}
  assert mounts == {v['name'] for v in pod['volumes']}


def test_the_jobset_fits_the_schema_of_kubernetes():
  validator = pytest.importorskip('kubernetes_validate')
  (replicated,) = _job_set()['spec']['replicatedJobs']
  job = dict(
    apiVersion='batch/v1', kind='Job', metadata=dict(name='kdjax'), **replicated['template']
  )
  validator.validate(job, validator.latest_version(), strict=True)
