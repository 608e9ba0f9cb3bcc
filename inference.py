"""Audio files in, the F0 curve of their lead melody out: command line and Python interface.

    uv run inference.py                     the example, with its scores
    uv run inference.py song.mp3 folder/    results in output/

`MelodyExtractor`, for use in Python, is that of extractor.py. Nothing heavy is imported before it
is needed, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from config import LEADS, inference_config
from extractor import MelodyExtractor, find_network

HERE = Path(__file__).parent
# As batch.FORMATS, which is slow to import.
FORMATS = ("csv", "mirex", "npz", "midi", "jams", "wav", "stereo", "png", "html")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong use ends with exit code 2."""
    parser = argparse.ArgumentParser(
        description="Find the lead melody of music: its pitch over time, and where it sounds. "
        "With no INPUT, a short example is analysed and scored."
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="songs, or folders of songs (any audio format); - reads one from standard input",
    )
    add(
        "--output-dir",
        type=Path,
        default=Path(inference_config.output_dir),
        metavar="DIR",
        help="where results go (default %(default)s); - writes the one result to standard output",
    )
    add(
        "--formats",
        type=_formats,
        default=inference_config.formats,
        metavar="LIST",
        help=f"what to write, separated by commas: {', '.join(FORMATS)} "
        f"(default {','.join(inference_config.formats)}; wav: the melody sung back as a tone; "
        "stereo: the song left, that tone right; html: a page to listen and look)",
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
    add(
        "--hysteresis",
        type=float,
        metavar="X",
        help="0 or more; higher gives fewer, longer stretches of melody (default: as tuned)",
    )
    add(
        "--lead",
        choices=LEADS,
        default="any",
        help="who can have the melody: any, singers and instruments (default); voice, singers",
    )
    add("--no-smoothing", action="store_true", help="decide every moment by itself")
    add("--no-fine-pitch", action="store_true", help="whole semitones instead of exact pitch")
    add("--fmin", type=float, metavar="HZ", help="lowest pitch the melody may have")
    add("--fmax", type=float, metavar="HZ", help="highest pitch the melody may have")
    add("--hop", type=float, metavar="SECONDS", help="time step of the results (default 0.0058)")
    add("--mirex", nargs=2, metavar=("IN", "OUT"), help="MIREX's form: one song, one text file")
    add("--jobs", type=int, default=1, metavar="N", help="recordings analysed at the same time")
    add("--scheduler", default="", metavar="ADDRESS", help="share the work over a Dask cluster")
    add("--resume", action="store_true", help="skip recordings that are done and unchanged")
    add(
        "--backend",
        choices=("auto", "torch", "onnx"),
        default="auto",
        help="what runs the network (default: onnxruntime where it is installed, else torch)",
    )
    add("--export-onnx", type=Path, metavar="FILE", help="write the network as ONNX, and stop")
    add("--json", action="store_true", help="print one JSON object about the results, for scripts")
    add("--quiet", action="store_true", help="print errors only")
    args = parser.parse_args(argv)
    if args.hop is not None and not 1e-3 <= args.hop <= 10:
        parser.error(f"--hop {args.hop} s is not between 0.001 and 10")
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs} is not 1 or more")
    if str(args.output_dir) == "-" and (len(args.formats) != 1 or len(args.inputs) != 1):
        parser.error("--output-dir - takes one INPUT and one format")
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
    from summary import Summary, settings_key

    settings = {
        "checkpoint": args.checkpoint,
        "device": args.device,
        "voicing_threshold": args.voicing_threshold,
        "fmin_hz": args.fmin,
        "fmax_hz": args.fmax,
        "hysteresis": args.hysteresis,
        "smoothing": not args.no_smoothing,
        "fine_pitch": not args.no_fine_pitch,
        "backend": args.backend,
        "lead": args.lead,
    }
    if args.export_onnx:
        MelodyExtractor(**settings | {"backend": "torch"}).export_onnx(args.export_onnx)
        return 0
    make_extractor = partial(MelodyExtractor, **settings)
    if args.mirex:
        batch.prepare_output_dir(Path(args.mirex[1]).parent)
        write_mirex(args.mirex[1], make_extractor().extract_file(args.mirex[0]))
        return 0
    example = HERE / inference_config.example
    use_example = not args.inputs
    if use_example:
        args.formats = tuple(dict.fromkeys(("csv", *args.formats)))
    batch.check_packages(args.formats)
    to_stdout = str(args.output_dir) == "-"
    args.quiet = args.quiet or to_stdout
    with batch.piped(batch.find_jobs([str(example)] if use_example else args.inputs), args) as jobs:
        batch.prepare_output_dir(args.output_dir)
        path = find_network(args.checkpoint, args.device, args.backend)
        record = None
        if (args.resume or len(jobs) > 1) and path.exists():
            record = Summary(args.output_dir, settings_key(args, path))
        results, errors = batch.process_all(jobs, make_extractor, args, record)
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
