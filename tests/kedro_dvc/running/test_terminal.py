"""What is written, by Python or not, is taken off the terminal and given back."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

SCRIPT = """
import os, subprocess, sys
from kedro_dvc.watch import (taken_off)
heard = []
with taken_off(heard.append) as terminal:
    print("of python")
    sys.stdout.flush()
    sys.stderr.write("of \\x1b[31mcolour\\x1b[0m\\r\\n")
    sys.stderr.flush()
    subprocess.run(["sh", "-c", "echo of another"])
    sys.stderr.write("a bar\\ra longer bar")
    size, tty = os.get_terminal_size(1).columns, sys.stderr.isatty()
    terminal.write("for the user\\n")
print("after")
open(sys.argv[1], "w").write("|".join([*heard, str(tty)]))
"""


SCREEN = """
import sys
from kedro_dvc.watch import (shown)
with shown() as screen:
    screen.planned(["a"])
    screen.began("a")
    for number in range(500):
        sys.stderr.write(f"noise {number}\\n")
"""


def test_all_writers_are_heard_and_the_terminal_is_free(tmp_path: Path):
    shown = _on_a_terminal([sys.executable, "-c", SCRIPT, str(tmp_path / "heard")])

    assert shown.split() == ["for", "the", "user", "after"]
    assert (tmp_path / "heard").read_text().split("|") == [
        "of python",
        "of colour",
        "of another",
        "a bar",
        "a longer bar",
        "True",
    ]


def _on_a_terminal(command: list[str]) -> str:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    text = b""
    try:
        while piece := os.read(terminal, 4096):
            text += piece
    except OSError:  # the other end is closed
        pass
    os.waitpid(pid, 0)
    os.close(terminal)
    return text.decode()


def test_a_screen_is_not_disturbed_by_what_stages_write():
    """It shows the last line that it has heard of, some times a second."""
    shown = _on_a_terminal([sys.executable, "-c", SCREEN])

    assert "stage" in shown
    assert shown.count("noise") < 50
