"""Work for many processes: of this machine (concurrent.futures), or of a cluster (Dask).

Each unit of work is one recording. On a cluster a unit whose worker dies is done again by another;
results are those of a local run, since every unit depends on its arguments alone. Workers read and
write the same file system, and run in this folder:

    uv sync --group cluster
    uv run python -m distributed.cli.dask_scheduler                        # on one machine
    uv run python -m distributed.cli.dask_worker tcp://HOST:8786 --nthreads 1   # on every machine
"""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

RETRIES = 3  # of a unit whose worker died


@contextmanager
def open_pool(
    n_processes: int | None, scheduler: str = "", start_method: str | None = None
) -> Iterator[Executor]:
    """Processes of this machine (None: one for each core), or those of a Dask scheduler.

    On leaving by an exception, what has not begun is dropped. Raises ValueError when Dask is
    missing, OSError when no scheduler answers.
    """
    if scheduler:
        try:
            from dask.distributed import Client
        except ImportError:
            raise ValueError("--scheduler needs Dask: uv sync --group cluster") from None
        with Client(scheduler, set_as_default=False) as client:
            yield client.get_executor(retries=RETRIES)
        return
    n_threads = max(1, (os.cpu_count() or 1) // (n_processes or os.cpu_count() or 1))
    pool = ProcessPoolExecutor(
        n_processes, get_context(start_method), initializer=_limit_threads, initargs=(n_threads,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _limit_threads(n_threads: int) -> None:
    """The processes share the cores; set before torch or onnxruntime are imported."""
    os.environ["OMP_NUM_THREADS"] = str(n_threads)
