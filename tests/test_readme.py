"""What the README says can be typed, can be typed."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"uv run (\S+\.py)([^\n`|]*)", README)


@cache
def help_of(script):
    done = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("script", sorted({script for script, _ in COMMANDS}))
def test_every_flag_exists(script):
    for _, rest in (command for command in COMMANDS if command[0] == script):
        for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest.split("#")[0]):
            assert flag in help_of(script), f"README: {script} {flag}"


def test_the_python_example_runs(monkeypatch):
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    monkeypatch.chdir(ROOT)
    names = {}
    exec(code, names)
    melody = names["melody"]
    arrays = (melody.times, melody.frequency, melody.confidence, melody.voiced)
    assert len({a.shape for a in arrays}) == 1 and len(melody.times) > 1000
    assert (np.diff(melody.times) > 0).all() and (melody.frequency > 0).all()


def test_files_and_pictures_exist():
    named = re.findall(r"\]\((?!http)([^)]+)\)", README)
    table = README.split("## Files")[1].split("\n## ")[0]
    named += re.findall(
        r"`(\w[\w./]+)`", "\n".join(r.split("|")[0] for r in table.split("\n|")[2:])
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
    listed = set(named)
    assert {p.name for p in ROOT.glob("*.py")} <= listed
