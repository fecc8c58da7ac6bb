"""Stand-ins for the commands of other programs that launch/ calls."""

import pytest

from tests.launch.commands import Commands


@pytest.fixture
def commands(tmp_path):
  """Instead of those that this machine may have."""
  found = Commands(tmp_path)
  for name in ('gcloud', 'sbatch', 'srun', 'scancel', 'scontrol', 'squeue', 'curl', 'sudo'):
    found.add(name)
  return found
