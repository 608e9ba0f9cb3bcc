"""get_instrumentals.sh with packages made here in place of the system's."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "get_instrumentals.sh"
pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("bash", "dpkg-deb")), reason="needs bash and dpkg-deb"
)
PACKAGES = re.search(r'PACKAGES="(.*?)"', SCRIPT.read_text(), re.DOTALL)[1].split()
APT_GET = """#!/bin/sh
# apt-get download NAME: from a folder of packages
echo "$2" >> "$REPOSITORY/asked"
cp "$REPOSITORY/$2"_*.deb .
"""


def build_package(name, repository, workspace):
    """A .deb with a recording, a short sound, and sounds that are no music."""
    root = workspace / name
    for folder in ("DEBIAN", "usr/share/games/x/music", "usr/share/games/x/sounds"):
        (root / folder).mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
    )
    (root / "usr/share/games/x/music/theme.ogg").write_bytes(os.urandom(600_000))
    (root / "usr/share/games/x/music/click.ogg").write_bytes(b"short")
    (root / "usr/share/games/x/sounds/rain.ogg").write_bytes(os.urandom(600_000))
    command = ["dpkg-deb", "--build", "-Znone", str(root), f"{repository}/{name}_1_all.deb"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def run(tmp_path):
    """Call the script; returns (exit status, stderr)."""
    repository = tmp_path / "repository"
    for folder in (repository, tmp_path / "bin", tmp_path / "workspace"):
        folder.mkdir()
    (tmp_path / "bin/apt-get").write_text(APT_GET)
    (tmp_path / "bin/apt-get").chmod(0o755)
    for name in PACKAGES:
        build_package(name, repository, tmp_path / "workspace")
    variables = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "REPOSITORY": str(repository),
        "DATASETS_DIR": str(tmp_path / "datasets"),
    }

    def call():
        done = subprocess.run(["bash", SCRIPT], env=variables, capture_output=True, text=True)
        return done.returncode, done.stderr

    return call


def found(tmp_path):
    folder = tmp_path / "datasets"
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_the_music_of_every_package_is_kept_and_nothing_else(run, tmp_path):
    assert run() == (0, "")
    assert found(tmp_path) == [f"instrumentals/{name}/theme.ogg" for name in PACKAGES]


def test_what_is_there_is_not_asked_for_again_and_what_is_missing_is_named(run, tmp_path):
    package = tmp_path / "repository/flare-game_1_all.deb"
    package.rename(tmp_path / "elsewhere.deb")
    status, error = run()
    assert status == 1 and "packages: flare-game (" in error
    assert len(found(tmp_path)) == len(PACKAGES) - 1
    (tmp_path / "elsewhere.deb").rename(package)
    (tmp_path / "repository/asked").unlink()
    assert run()[0] == 0 and len(found(tmp_path)) == len(PACKAGES)
    assert (tmp_path / "repository/asked").read_text().split() == ["flare-game"]
