"""Many recordings in, many result files out: names, formats, errors that stop one file only."""

import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from audio import AUDIO_SUFFIXES, AudioWarning, read_audio
from melody_io import WRITERS, Melody, read_melody, regrid

FORMATS = (*WRITERS, "png")
OPTIONAL_PACKAGES = {"midi": "mido", "png": "matplotlib"}
SCORES = ("OA", "RPA", "RCA", "VR", "VFA")
Progress = Callable[[float, float], None]  # (seconds done, seconds in all)


class Extractor(Protocol):
    """What is needed of `inference.MelodyExtractor`."""

    sample_rate: int

    def extract(self, audio: np.ndarray, sample_rate: int, progress: Progress) -> Melody:
        """Find the melody of audio in memory."""


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
    jobs, seen, taken = [], set(), set()
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
    tone_suffix = WRITERS["wav"][0]  # our own results are no songs
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not path.name.startswith(".")
        and not path.name.endswith(tone_suffix)
        and path.is_file()
    ]
    return paths or [folder]  # which `process` reports


def process(job: Job, extractor: Extractor, args: Namespace, progress: Progress) -> dict:
    """Write the results of one recording; returns what `--json` prints about it."""
    if job.path.is_dir():
        raise ValueError(f"{job.path}: no audio in this folder ({', '.join(AUDIO_SUFFIXES)})")
    targets = {fmt: args.output_dir / f"{job.name}{_suffix(fmt)}" for fmt in args.formats}
    for target in targets.values():
        if target.exists() and target.parent.resolve() == job.path.parent.resolve():
            raise ValueError(
                f"{target}: is there already, beside the recording, and may be its annotation; "
                "choose another --output-dir"
            )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AudioWarning)
        audio = read_audio(job.path, extractor.sample_rate)
    melody = extractor.extract(audio, extractor.sample_rate, progress)
    if args.hop:
        melody = regrid(melody, args.hop)
    for fmt, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        if fmt == "png":
            from report import plot_melody

            plot_melody(target, audio, extractor.sample_rate, melody)
        else:
            WRITERS[fmt][1](target, melody)
    return {
        "input": str(job.path),
        "outputs": {fmt: str(target) for fmt, target in targets.items()},
        "duration_s": round(len(audio) / extractor.sample_rate, 3),
        "voiced_share": round(float(np.mean(melody.voiced)), 4),
        "notes": [str(w.message) for w in caught if issubclass(w.category, AudioWarning)],
    }


def _suffix(fmt: str) -> str:
    return ".png" if fmt == "png" else WRITERS[fmt][0]


def process_all(
    jobs: list[Job], extractor: Extractor, args: Namespace
) -> tuple[list[dict], list[dict]]:
    """Process every job with a progress bar on stderr; returns results and errors."""
    from tqdm import tqdm

    results, errors = [], []
    hidden = True if args.quiet else None  # None: shown on a terminal only
    layout = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=len(jobs), disable=hidden, bar_format=layout, delay=0.5, leave=False) as bar:
        for index, job in enumerate(jobs):
            bar.set_description(printable(job.path.name)[:30], refresh=False)

            def on_progress(done_s: float, total_s: float, index: int = index) -> None:
                bar.n = index + done_s / max(total_s, 1e-9)
                bar.refresh()

            try:
                results.append(process(job, extractor, args, on_progress))
                if not (args.quiet or args.json):
                    bar.write(_line(results[-1]), file=sys.stdout)
            except (ValueError, OSError, RuntimeError, MemoryError) as error:
                errors.append({"input": str(job.path), "error": str(error) or repr(error)})
            bar.n = index + 1
    return results, errors


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
    for package in (OPTIONAL_PACKAGES[fmt] for fmt in formats if fmt in OPTIONAL_PACKAGES):
        if find_spec(package) is None:
            raise ValueError(f"this format needs {package}: uv pip install {package}")
