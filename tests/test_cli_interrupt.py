from __future__ import annotations

import subprocess
import sys

# What Ctrl-C does while typer is being loaded.
SCRIPT = """
import sys

class Interrupted:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from audioset.cli import main
"""


def test_an_interrupt_while_the_command_is_loaded_ends_it_in_a_word() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")
