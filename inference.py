"""Audio files in, the F0 curve of their lead melody out: command line and Python interface.

    uv run inference.py                     the example, with its scores
    uv run inference.py song.mp3 folder/    results in output/

    from inference import MelodyExtractor
    melody = MelodyExtractor().extract_file("song.mp3")
    melody.times_s, melody.f0_hz, melody.confidence, melody.voiced

Nothing heavy is imported before it is needed, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from config import inference_config, train_config

if TYPE_CHECKING:
    import numpy as np

    from melody_io import Melody

HERE = Path(__file__).parent
FORMATS = ("csv", "mirex", "npz", "midi", "wav", "png")  # as batch.FORMATS, which is slow to import
Progress = Callable[[float, float], None]  # (seconds done, seconds in all)


class MelodyExtractor:
    """A trained network, ready to be used on any number of recordings. Never prints.

    Parameters
    ----------
    checkpoint : str, Path or None
        A `.pt` file of this project; None takes the newest in `models/`.
    device : str
        "auto", "cpu" or "cuda".
    voicing_threshold : float or None
        0..1: higher marks fewer frames as melody; None takes the checkpoint's own.
    fmin_hz, fmax_hz : float or None
        The range in which the melody is looked for.

    Raises
    ------
    FileNotFoundError, ValueError
        For a missing or unusable checkpoint, or a setting out of range.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        device: str = "auto",
        voicing_threshold: float | None = None,
        fmin_hz: float | None = None,
        fmax_hz: float | None = None,
    ) -> None:
        _require_settings(voicing_threshold, fmin_hz, fmax_hz)
        from checkpoint import load_checkpoint, newest_checkpoint, resolve_device

        path = checkpoint or inference_config.checkpoint
        path = Path(path) if path else newest_checkpoint(HERE / train_config.models_dir)
        self._loaded = load_checkpoint(path, resolve_device(device))
        self._decoding = self._loaded.decoding
        if voicing_threshold is not None:
            self._decoding = replace(self._decoding, voicing_threshold=voicing_threshold)
        self._range_hz = {"fmin_hz": fmin_hz, "fmax_hz": fmax_hz}

    @property
    def sample_rate(self) -> int:
        """The network's own rate in Hz; audio of other rates is resampled to it."""
        return self._loaded.features.sample_rate

    def extract(
        self, audio: np.ndarray, sample_rate: int, progress: Progress | None = None
    ) -> Melody:
        """Find the melody of audio in memory.

        `audio` has the shape (n_samples,), or two axes of which the shorter holds the channels;
        `sample_rate` is in Hz. Raises ValueError for no samples, NaN or infinite samples.
        """
        from audio import to_mono
        from decoding import extract_melody

        mono = to_mono(audio, sample_rate, self.sample_rate)
        return extract_melody(
            mono, self._loaded, decoding=self._decoding, progress=progress, **self._range_hz
        )

    def extract_file(self, path: str | Path, progress: Progress | None = None) -> Melody:
        """Find the melody of an audio file; ValueError says what is wrong with a bad one."""
        from audio import read_audio

        return self.extract(read_audio(path, self.sample_rate), self.sample_rate, progress)


def _require_settings(
    voicing_threshold: float | None, fmin_hz: float | None, fmax_hz: float | None
) -> None:
    if voicing_threshold is not None and not 0 <= voicing_threshold <= 1:
        raise ValueError(f"voicing threshold {voicing_threshold} is not between 0 and 1")
    for name, value_hz in (("fmin", fmin_hz), ("fmax", fmax_hz)):
        if value_hz is not None and not 0 < value_hz < float("inf"):
            raise ValueError(f"{name} {value_hz} Hz is not a positive frequency")
    if fmin_hz and fmax_hz and fmin_hz >= fmax_hz:
        raise ValueError(f"fmin {fmin_hz:g} Hz is not below fmax {fmax_hz:g} Hz")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong use ends with exit code 2."""
    parser = argparse.ArgumentParser(
        description="Find the lead melody of music: its pitch over time, and where it sounds. "
        "With no INPUT, a short example is analysed and scored."
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="songs, or folders of songs (any audio format)")
    add("--output-dir", type=Path, default=Path(inference_config.output_dir), metavar="DIR")
    add(
        "--formats",
        type=_formats,
        default=inference_config.formats,
        metavar="LIST",
        help=f"what to write, separated by commas: {', '.join(FORMATS)} "
        f"(default {','.join(inference_config.formats)}; wav: the melody sung back as a tone)",
    )
    add(
        "--checkpoint", type=Path, metavar="PT", help="trained network (default: newest in models/)"
    )
    add("--device", choices=("auto", "cpu", "cuda"), default=inference_config.device)
    add(
        "--voicing-threshold",
        type=float,
        metavar="X",
        help="0..1; higher finds melody in fewer places (default: what the network was tuned for)",
    )
    add("--fmin", type=float, metavar="HZ", help="lowest pitch the melody may have")
    add("--fmax", type=float, metavar="HZ", help="highest pitch the melody may have")
    add("--hop", type=float, metavar="SECONDS", help="time step of the results (default 0.0058)")
    add("--mirex", nargs=2, metavar=("IN", "OUT"), help="MIREX's form: one song, one text file")
    add("--json", action="store_true", help="print one JSON object about the results, for scripts")
    add("--quiet", action="store_true", help="print errors only")
    args = parser.parse_args(argv)
    if args.hop is not None and not 1e-3 <= args.hop <= 10:
        parser.error(f"--hop {args.hop} s is not between 0.001 and 10")
    if args.mirex and args.inputs:
        parser.error("--mirex takes its own two files and no INPUT")
    return args


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [fmt for fmt in formats if fmt not in FORMATS]
    if unknown or not formats:
        wrong = f"unknown format {', '.join(unknown)}" if unknown else "no format"
        raise argparse.ArgumentTypeError(f"{wrong}; choose from {', '.join(FORMATS)}")
    return formats


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for; returns the exit code."""
    import batch
    from melody_io import write_mirex

    example = HERE / inference_config.example
    use_example = not (args.inputs or args.mirex)
    if use_example:
        args.formats = tuple(dict.fromkeys(("csv", *args.formats)))
    batch.check_packages(args.formats)
    batch.prepare_output_dir(Path(args.mirex[1]).parent if args.mirex else args.output_dir)
    jobs = batch.find_jobs([str(example)] if use_example else args.inputs)
    extractor = MelodyExtractor(
        args.checkpoint, args.device, args.voicing_threshold, args.fmin, args.fmax
    )
    if args.mirex:
        write_mirex(args.mirex[1], extractor.extract_file(args.mirex[0]))
        return 0
    results, errors = batch.process_all(jobs, extractor, args)
    if use_example and results:
        results[0]["scores"] = batch.score_example(results[0], example)
        if not (args.quiet or args.json):
            scores = "  ".join(f"{k} {v:.1%}" for k, v in results[0]["scores"].items())
            print(f"scores against the exact F0 of the example: {scores}")
    if args.json:
        print(json.dumps({"results": results, "errors": errors}, indent=1))
    batch.print_errors(errors, len(jobs))
    return 1 if errors else 0


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, 1 (an input failed), 2 (wrong use) or 130 (interrupted)."""
    args = parse_args(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        print("interrupted; finished results stay", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        from batch import printable

        print(f"error: {printable(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
