import subprocess
import sys

_HEAVY = (
  'datasets', 'transformers', 'tensorflow_datasets', 'pandas', 'pyarrow', 'torch', 'tensorflow'
)  # fmt: skip
_PROGRAM = f"""
import sys
from kdjax.data import batches, sources, tokens
print(*[name for name in {_HEAVY} if name in sys.modules])
"""


def test_heavy_libraries_wait_until_they_are_used():
  out = subprocess.run([sys.executable, '-c', _PROGRAM], capture_output=True, text=True)
  assert not out.returncode, out.stderr
  assert out.stdout.split() == []
