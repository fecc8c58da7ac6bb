"""Commands of other programs, replaced by ones that note how they were called."""

import os
import pathlib
import subprocess

LAUNCH = pathlib.Path(__file__).parents[2] / 'launch'

# Answers to a call by the first pattern that it matches: 'status output', one line for each call,
# the last for all that follow. Without a pattern, it succeeds in silence.
FAKE = """#!/usr/bin/env bash
echo "${0##*/} $*" >>"$CALLS"
for pattern in "$0".*.pattern; do
  [[ -e $pattern && "$*" == $(<"$pattern") ]] || continue
  answers=${pattern%.pattern}.answers
  mapfile -t lines <"$answers"
  ((${#lines[@]} == 1)) || printf '%s\\n' "${lines[@]:1}" >"$answers"
  read -r status output <<<"${lines[0]}"
  [[ ! $output ]] || printf '%b\\n' "$output"
  exit "$status"
done
"""


class Commands:
  """A folder of commands at the head of PATH, and what they were called with."""

  def __init__(self, folder: pathlib.Path):
    self.bin = folder / 'bin'
    self.bin.mkdir()
    self._calls = folder / 'calls'
    kept = {k: v for k, v in os.environ.items() if not k.startswith(('SLURM_', 'TPU_'))}
    path = f'{self.bin}:{os.environ["PATH"]}'
    self.environment = kept | dict(PATH=path, CALLS=str(self._calls), PAUSE='0')

  def add(self, name: str, **answers: list[str]) -> None:
    """A command; answers by a word of the call."""
    self.script(name, FAKE)
    for word, lines in answers.items():
      (self.bin / f'{name}.{word}.pattern').write_text(f'*{word.replace("_", "*")}*')
      (self.bin / f'{name}.{word}.answers').write_text('\n'.join(lines) + '\n')

  def script(self, name: str, text: str) -> None:
    """A command that does what is said."""
    (self.bin / name).write_text(text)
    (self.bin / name).chmod(0o755)

  def run(self, name: str, *arguments: str, **settings: str):
    """A script of launch/, to its end."""
    return subprocess.run(
      ['bash', LAUNCH / name, *arguments],
      env=self.environment | settings, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

  def calls(self) -> list[str]:
    """All calls of all commands, in order."""
    return self._calls.read_text().splitlines() if self._calls.exists() else []
