"""Many recordings in, many result files out: names, formats, errors that stop one file only."""

import contextlib
import os
import pickle
import shutil
import sys
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

import summary
from audio import AUDIO_SUFFIXES, AudioWarning, SpooledAudio
from melody_io import WRITERS, Melody, missing_package, read_melody, regrid, write_stereo
from pools import open_pool

AUDIO_FORMATS = {"stereo": ".stereo.wav", "png": ".png", "html": ".html"}  # need the recording
FORMATS = (*WRITERS, *AUDIO_FORMATS)
SCORES = ("OA", "RPA", "RCA", "VR", "VFA")
ERRORS = (ValueError, OSError, RuntimeError, MemoryError)  # that one recording may raise
Progress = Callable[[float, float], None]  # (seconds done, seconds in all)


class Extractor(Protocol):
    """What is needed of `inference.MelodyExtractor`."""

    sample_rate: int

    def extract_spooled(self, audio: SpooledAudio, progress: Progress) -> Melody:
        """Find the melody of a recording of any length."""


@dataclass(frozen=True)
class Job:
    """One input and the name of its results, without suffix, inside the output folder."""

    path: Path
    name: str


def find_jobs(inputs: list[str]) -> list[Job]:
    """List the recordings among files and folders (searched recursively), each with its own name.

    A file is named after its stem; one found in a folder keeps its place in that folder. Where
    two would get one name, the later is numbered: `song`, `song-2`.
    """
    jobs, seen, taken = [], set(), {summary.NAME}
    for given in map(Path, inputs):
        for path in _audio_in(given) if given.is_dir() else [given]:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            place = path.relative_to(given).parent if given.is_dir() else Path()
            base = (place / path.stem).as_posix()
            name, number = base, 1
            while name.casefold() in taken:  # file systems may ignore case
                number += 1
                name = f"{base}-{number}"
            taken.add(name.casefold())
            jobs.append(Job(path, name))
    return jobs


def _audio_in(folder: Path) -> list[Path]:
    own_suffixes = (WRITERS["wav"][0], AUDIO_FORMATS["stereo"])  # our own results are no songs
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not path.name.startswith(".")
        and not path.name.endswith(own_suffixes)
        and path.is_file()
    ]
    return paths or [folder]  # which `process` reports


def process(job: Job, extractor: Extractor, args: Namespace, progress: Progress) -> dict:
    """Write the results of one recording; returns what `--json` prints about it."""
    if job.path.is_dir():
        raise ValueError(f"{job.path}: no audio in this folder ({', '.join(AUDIO_SUFFIXES)})")
    targets = find_targets(job, args)
    for target in targets.values():
        if target.exists() and target.parent.resolve() == job.path.parent.resolve():
            raise ValueError(
                f"{target}: is there already, beside the recording, and may be its annotation; "
                "choose another --output-dir"
            )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AudioWarning)
        audio = SpooledAudio(job.path, extractor.sample_rate)
    melody = extractor.extract_spooled(audio, progress)
    if args.hop:
        melody = regrid(melody, args.hop)
    for fmt, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_result(fmt, target, melody, audio, extractor.sample_rate)
    sung_hz = melody.f0_hz[melody.voiced] if melody.voiced.any() else np.zeros(1)
    return {
        "input": str(job.path),
        "outputs": {fmt: str(target) for fmt, target in targets.items()},
        "duration_s": round(len(audio) / extractor.sample_rate, 3),
        "voiced_share": round(float(np.mean(melody.voiced)), 4),
        "median_hz": round(float(np.median(sung_hz)), 1),
        "lowest_hz": round(float(sung_hz.min()), 1),
        "highest_hz": round(float(sung_hz.max()), 1),
        "notes": [str(w.message) for w in caught if issubclass(w.category, AudioWarning)],
    }


def find_targets(job: Job, args: Namespace) -> dict[str, Path]:
    """The result files of a job by format."""
    return {fmt: args.output_dir / f"{job.name}{_suffix(fmt)}" for fmt in args.formats}


def write_result(
    fmt: str, path: Path, melody: Melody, audio: SpooledAudio, sample_rate: int
) -> None:
    """Write one result file; `audio` is the recording that the melody is of."""
    if fmt in WRITERS:
        WRITERS[fmt][1](path, melody)
    elif fmt == "stereo":
        write_stereo(path, melody, audio[:], sample_rate)
    elif fmt == "png":
        from report import plot_melody

        plot_melody(path, audio[:], sample_rate, melody)
    elif fmt == "html":
        from page import write_page

        write_page(path, melody, audio[:], sample_rate, path.stem)


def _suffix(fmt: str) -> str:
    return AUDIO_FORMATS[fmt] if fmt in AUDIO_FORMATS else WRITERS[fmt][0]


def process_all(
    jobs: list[Job],
    make_extractor: Callable[[], Extractor],
    args: Namespace,
    record: summary.Summary | None = None,
) -> tuple[list[dict], list[dict]]:
    """Process every job with a progress bar on stderr; returns results and errors.

    `record` is the table that results are added to and, with `--resume`, skipped by.
    """
    from tqdm import tqdm

    results, errors = [], []
    if args.resume and record:
        todo = [j for j in jobs if not record.done(j.path, list(find_targets(j, args).values()))]
        if len(todo) < len(jobs) and not (args.quiet or args.json):
            print(f"{len(jobs) - len(todo)} of {len(jobs)} recordings are done and unchanged")
        jobs = todo
    hidden = True if args.quiet else None  # None: shown on a terminal only
    layout = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=len(jobs), disable=hidden, bar_format=layout, delay=0.5, leave=False) as bar:
        shared = args.scheduler or (args.jobs > 1 and len(jobs) > 1)
        run = _in_processes if shared else _one_by_one
        for job, outcome in run(jobs, make_extractor, args, bar):
            if isinstance(outcome, Exception):
                errors.append({"input": str(job.path), "error": str(outcome) or repr(outcome)})
                continue
            results.append(outcome)
            if record:
                record.add(outcome)
            if not (args.quiet or args.json):
                bar.write(_line(outcome), file=sys.stdout)
    return results, errors


def _one_by_one(
    jobs: list[Job], make_extractor: Callable[[], Extractor], args: Namespace, bar: object
) -> Iterator[tuple[Job, dict | Exception]]:
    """Each job with its result or error, in order; the bar moves within a recording."""
    extractor = make_extractor()
    for index, job in enumerate(jobs):
        bar.set_description(printable(job.path.name)[:30], refresh=False)

        def on_progress(done_s: float, total_s: float, index: int = index) -> None:
            bar.n = index + done_s / max(total_s, 1e-9)
            bar.refresh()

        try:
            outcome = process(job, extractor, args, on_progress)
        except ERRORS as error:
            outcome = error
        yield job, outcome
        bar.n = index + 1


def _in_processes(
    jobs: list[Job], make_extractor: Callable[[], Extractor], args: Namespace, bar: object
) -> Iterator[tuple[Job, dict | Exception]]:
    """Each job with its result or error as they are done, by several processes."""
    made_by = pickle.dumps(make_extractor)
    with open_pool(args.jobs, args.scheduler, "spawn") as pool:
        futures: dict[Future, Job] = {pool.submit(_in_process, j, made_by, args): j for j in jobs}
        for future in as_completed(futures):
            try:
                outcome = future.result()
            except ERRORS as error:  # a RuntimeError also when the process died
                outcome = error
            yield futures[future], outcome
            bar.update()


@cache
def _extractor_of_process(made_by: bytes) -> Extractor:
    return pickle.loads(made_by)()


def _in_process(job: Job, made_by: bytes, args: Namespace) -> dict:
    return process(job, _extractor_of_process(made_by), args, lambda done_s, total_s: None)


@contextlib.contextmanager
def piped(jobs: list[Job], args: Namespace) -> Iterator[list[Job]]:
    """Jobs with `-` replaced by what stands on standard input; `--output-dir -` goes to stdout."""
    with tempfile.TemporaryDirectory() as folder:
        if any(str(job.path) == "-" for job in jobs):
            source = Path(folder) / "stdin"
            with source.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            jobs = [Job(source, "stdin") if str(j.path) == "-" else j for j in jobs]
        if str(args.output_dir) != "-":
            yield jobs
            return
        args.output_dir = Path(folder) / "out"
        yield jobs
        for job in jobs:
            for target in find_targets(job, args).values():
                if target.exists():
                    sys.stdout.buffer.write(target.read_bytes())
        sys.stdout.buffer.flush()


def _line(result: dict) -> str:
    outputs = ", ".join(map(printable, result["outputs"].values()))
    line = f"{printable(result['input'])} -> {outputs}  ({result['voiced_share']:.0%} melody)"
    return "\n".join([line, *(f"  note: {printable(note)}" for note in result["notes"])])


def print_errors(errors: list[dict], n_jobs: int) -> None:
    """Say on stderr what failed."""
    for entry in errors:
        print(f"error: {printable(entry['error'])}", file=sys.stderr)
    if errors and n_jobs > 1:
        print(f"{len(errors)} of {n_jobs} recordings failed", file=sys.stderr)


def printable(text: object) -> str:
    """Keep a file name on one line, whatever it holds."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def score_example(result: dict, example: Path) -> dict[str, float]:
    """Score the example's csv result against its exact F0."""
    from metrics import score_song

    times_s, f0_hz = read_melody(result["outputs"]["csv"])
    reference_s, reference_hz = read_melody(example.with_suffix(".csv"))
    scores = score_song(reference_s, np.maximum(reference_hz, 0), times_s, f0_hz)
    return {name: scores[name] for name in SCORES}


def prepare_output_dir(folder: Path) -> None:
    """Create the folder and see that it can be written to, before any long work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror
        raise ValueError(
            f"{folder}: cannot write here ({reason}); choose another --output-dir"
        ) from None


def check_packages(formats: tuple[str, ...]) -> None:
    """Raise ValueError when a format needs an optional package that is not installed."""
    for package in filter(None, map(missing_package, formats)):
        raise ValueError(f"this format needs {package}: uv pip install {package}")
