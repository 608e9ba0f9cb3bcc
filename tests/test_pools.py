"""A real Dask scheduler and two workers on this machine; one of them is killed."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pools
from pools import open_pool

ROOT = Path(__file__).resolve().parent.parent
N_SONGS = 6


def test_local_processes_share_the_cores():
    with open_pool(2) as pool:
        assert sorted(pool.map(abs, range(-3, 0))) == [1, 2, 3]
        n_threads = pool.submit(os.getenv, "OMP_NUM_THREADS").result()
    assert int(n_threads) == max(1, os.cpu_count() // 2)


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(ValueError, match="uv sync --group cluster"), open_pool(1, "tcp://x:1"):
        pass
    assert pools.RETRIES > 0


@pytest.fixture
def cluster(tmp_path):
    """Address of a scheduler, and two worker processes that run in the repository."""
    pytest.importorskip("dask.distributed", reason="optional: uv sync --group cluster")
    address_file = tmp_path / "scheduler.json"
    start = [sys.executable, "-m"]
    quiet = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    scheduler = subprocess.Popen(
        [*start, "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard",
         "--scheduler-file", address_file], **quiet)  # fmt: skip
    workers = [
        subprocess.Popen(
            [*start, "distributed.cli.dask_worker", "--scheduler-file", address_file, "--no-nanny",
             "--nthreads", "1", "--no-dashboard", "--local-directory", tmp_path / "dask"],
            env=environment, **quiet)
        for _ in range(2)
    ]  # fmt: skip
    for _ in range(300):
        if address_file.exists() and address_file.stat().st_size:
            break
        time.sleep(0.1)
    yield json.loads(address_file.read_text())["address"], workers
    for process in (*workers, scheduler):
        process.kill()
        process.wait()


def test_a_killed_worker_costs_its_unit_only(cluster, tmp_path):
    address, workers = cluster
    for k in range(N_SONGS):
        shutil.copy(ROOT / "examples" / "example.ogg", tmp_path / f"{k}.ogg")
    songs = [tmp_path / f"{k}.ogg" for k in range(N_SONGS)]
    command = [sys.executable, ROOT / "inference.py", *songs, "--quiet", "--output-dir"]
    there = subprocess.Popen(
        [*command, tmp_path / "there", "--scheduler", address], stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "there" / "melody_summary.csv").exists():  # the first is done
        assert there.poll() is None, there.stderr.read()
        time.sleep(0.05)
    workers[0].kill()
    assert there.wait(timeout=300) == 0, there.stderr.read()
    subprocess.run([*command, tmp_path / "here"], check=True)
    for k in range(N_SONGS):
        ours, theirs = (tmp_path / place / f"{k}.csv" for place in ("there", "here"))
        assert ours.read_bytes() == theirs.read_bytes()
    with (tmp_path / "there" / "melody_summary.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == N_SONGS
