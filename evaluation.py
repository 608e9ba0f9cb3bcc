"""Score melodies of whole recordings against their original annotations.

    uv run evaluation.py                                     the test split, the newest checkpoint
    uv run evaluation.py --dataset mirex05 --baseline melodia --published
    uv run evaluation.py --dataset mirex05 --estimates DIR   any system's output files
    uv run evaluation.py --dataset mirex05 --report out.html a page with the songs to play

Prints the tables and writes scores.json and scores.csv. The exit code is 1 when anything could
not be scored as asked; the rest is scored all the same.
"""

import argparse
import contextlib
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import mir_eval
from tqdm import tqdm

import score_tables as tables
from baselines import (
    BASELINES,
    PUBLISHED,
    System,
    baseline_system,
    checkpoint_system,
    files_system,
    unknown_estimates,
)
from config import PROTOCOLS, evaluation_config, preproc_config
from corpora import (
    FOLDERS,
    MIRDATA,
    SUBSETS,
    Track,
    find_tracks,
    has_stems,
    missing_clips,
    part_of,
    read_annotation,
    read_audio,
    unpaired_files,
)
from error_analysis import error_breakdown
from melody_io import TONE_RATE, Melody
from metrics import align, score_song

MAX_SONGS_ON_SCREEN = 40
DATASET_HELP = (
    f"{', '.join(FOLDERS)}, mirdata:NAME ({', '.join(MIRDATA)}) or folders; default: the test split"
)
ERRORS = (OSError, ValueError, RuntimeError)  # that one recording or file may raise


@dataclass(frozen=True)
class Selection:
    """Recordings to score together."""

    name: str  # "mirex05/all"
    tracks: list[Track]
    voice_gains_db: tuple[float, ...]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--checkpoint", metavar="PT", help="default: the newest; none: no checkpoint")
    add("--dataset", nargs="+", help=DATASET_HELP)
    add("--part", choices=("train", "val", "test", "all"), help="default: what is for testing")
    add("--estimates", nargs="+", default=[], type=Path, metavar="DIR", help="output files")
    add("--baseline", nargs="+", default=[], choices=sorted(BASELINES), help="installed systems")
    add("--published", action="store_true", help="print published rows as well")
    add(
        "--voice-gain-db",
        nargs="+",
        type=float,
        default=[0.0],
        metavar="DB",
        help="where stems are separate",
    )
    add("--output-dir", type=Path, default=Path(evaluation_config.output_dir))
    add("--datasets-dir", type=Path, default=Path(preproc_config.datasets_dir))
    add("--report", type=Path, metavar="HTML", help="write a page with tables and songs to play")
    add("--plots", type=Path, metavar="DIR", help="write a picture of each song (PNG)")
    add("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()
    if args.estimates and args.voice_gain_db != [0.0]:
        parser.error("--voice-gain-db remixes recordings; files of --estimates cannot follow it")
    return args


def make_systems(args: argparse.Namespace, problems: list[str]) -> tuple[list[System], str]:
    """All systems to score; and the protocol of the checkpoint, "" without one."""
    systems, protocol = [], ""
    use_checkpoint = args.checkpoint != "none" and (args.checkpoint or not args.estimates)
    makers = [lambda: checkpoint_system(args.checkpoint, args.device)] if use_checkpoint else []
    makers += [lambda d=d: (files_system(d), "") for d in args.estimates]
    makers += [lambda b=b: (baseline_system(b), "") for b in args.baseline]
    for make in makers:
        try:
            system, trained_under = make()
        except (*ERRORS, ModuleNotFoundError) as error:
            problems.append(str(error))
            continue
        if system.name in {s.name for s in systems}:
            system = replace(system, name=f"{system.name} ({len(systems) + 1})")
        systems.append(system)
        protocol = protocol or trained_under
    return systems, protocol


def select(args: argparse.Namespace, protocol: str, problems: list[str]) -> list[Selection]:
    """Find the recordings: those asked for, or the test split of the protocol.

    Without --part a data set gives the part that the protocol tests on, and the whole of a set
    that the protocol does not use.
    """
    tested = dict(PROTOCOLS[protocol]["test"])
    selections = []
    for dataset in args.dataset or tested:
        part = args.part or tested.get(dataset, "all")
        try:
            tracks = find_tracks(dataset, args.datasets_dir, part)
        except ERRORS as error:
            problems.append(f"{dataset}: {error}")
            continue
        absent = missing_clips(dataset, find_tracks(dataset, args.datasets_dir))
        if absent:
            print(f"Mind: {absent}.")
        if not tracks:
            problems.append(f"{dataset}: no recording in part {part!r}; try --part all")
            continue
        if dataset not in FOLDERS:
            unpaired = unpaired_files(dataset, args.datasets_dir)
            problems += [
                f"{dataset}: {name} has no partner (audio, annotation)" for name in unpaired
            ]
        gains_db = tuple(args.voice_gain_db)
        if gains_db != (0.0,) and not has_stems(tracks[0]):
            gains_db = (0.0,)
            print(f"Mind: {dataset} has no separate voice; it is scored as recorded.")
        selections.append(Selection(f"{tracks[0].dataset}/{part}", tracks, gains_db))
    return selections


def trained_on(tracks: list[Track], protocol: str) -> int:
    """Count the tracks that the protocol trains on or chooses the epoch with."""
    used = {*PROTOCOLS[protocol]["train"], *PROTOCOLS[protocol]["val"]}
    return sum((t.dataset, "all") in used or (t.dataset, part_of(t)) in used for t in tracks)


def score_track(system: System, track: Track, gain_db: float, problems: list[str]) -> dict | None:
    """One row of scores; None, with the reason in `problems`, where there is none."""
    try:
        ref_times_s, ref_hz, reliable = read_annotation(track)
        est_times_s, est_hz = system.estimate(track, gain_db)
        series = (ref_times_s, ref_hz, est_times_s, est_hz, reliable)
        tolerances = tuple(t for t in evaluation_config.tolerance_cents if t != 50)
        scores = score_song(*series, tolerances_cents=tolerances)
        errors = error_breakdown(align(*series))
    except ERRORS as error:
        problems.append(f"{track.song_id}, {system.name}: {error}")
        return None
    tail_s, end_s = scores["missing_tail_s"], ref_times_s[-1]
    if tail_s:
        problems.append(
            f"{track.song_id}, {system.name}: the estimate ends {tail_s:.2f} s before the "
            f"reference's {end_s:.2f} s; the missing {100 * tail_s / end_s:.0f} % count as unvoiced"
        )
    labels = (system.name, track.dataset, track.song_id, gain_db)
    row = dict(zip(tables.LABELS, labels, strict=True))
    return row | {"scores": scores, "errors": errors, "estimate": (est_times_s, est_hz)}


def score_selection(
    selection: Selection, systems: list[System], problems: list[str]
) -> dict[float, list[dict]]:
    """Rows of all systems and songs, by voice level."""
    rows = {}
    for gain_db in selection.voice_gains_db:
        jobs = [(s, t) for s in systems for t in selection.tracks]
        progress = tqdm(jobs, desc=selection.name, unit="song", file=sys.stderr)
        scored = [score_track(s, t, gain_db, problems) for s, t in progress]
        rows[gain_db] = [row for row in scored if row]
    return rows


def make_groups(selection: Selection, rows: dict[float, list[dict]]) -> list[dict]:
    """Summaries of a selection and of the literature's subsets of it, at each voice level."""
    groups = []
    for gain_db, of_level in rows.items():
        level = "" if selection.voice_gains_db == (0.0,) else f", voice {gain_db:+g} dB"
        if not of_level:
            continue
        groups.append(tables.summarise(selection.name + level, of_level))
        for name, songs in SUBSETS.items():
            inside = [r for r in of_level if r["song_id"] in songs]
            if inside and name.startswith(inside[0]["dataset"] + "/"):
                n_found = len({r["song_id"] for r in inside})
                part = "" if n_found == len(songs) else f" ({n_found} of {len(songs)} songs)"
                groups.append(tables.summarise(name + part + level, inside))
    return groups


def print_tables(groups: list[dict], rows: list[dict], published: bool) -> None:
    """Show the averages, the errors, and the songs when there are not too many."""
    print(tables.CONVENTION)
    for group in groups:
        print(f"\n{tables.group_table(group)}")
    for group in groups:
        for system in group["systems"]:
            print(f"\nErrors of {system['system']}, {group['name']}, % of the frames of each line")
            print(tables.errors_table(system["errors"]))
    if len(rows) <= MAX_SONGS_ON_SCREEN:
        print(f"\n{tables.songs_table(rows)}")
    for subset in PUBLISHED if published else ():
        print(f"\n{tables.published_table(subset)}")


def write_files(
    args: argparse.Namespace, about: dict, groups: list[dict], rows: list[dict]
) -> None:
    """Write scores.json (everything) and scores.csv (songs)."""
    args.output_dir.mkdir(parents=True, exist_ok=True)
    songs = [{key: value for key, value in row.items() if key != "estimate"} for row in rows]
    tables.write_json(args.output_dir / "scores.json", about | {"groups": groups, "songs": songs})
    tables.write_csv(args.output_dir / "scores.csv", rows)
    print(f"\nWritten: {args.output_dir / 'scores.json'}, {args.output_dir / 'scores.csv'}")


def read_song(track: Track, gain_db: float) -> tuple:
    """What a report shows of a recording: audio at 44.1 kHz, times and F0 of the reference."""
    times_s, f0_hz, _ = read_annotation(track)
    return read_audio(track, TONE_RATE, gain_db), times_s, f0_hz


def write_pages(
    args: argparse.Namespace,
    about: dict,
    groups: list[dict],
    rows: list[dict],
    selections: list[Selection],
) -> None:
    """Write the report and the pictures that were asked for."""
    songs = {
        (track.song_id, gain_db): partial(read_song, track, gain_db)
        for selection in selections
        for track in selection.tracks
        for gain_db in selection.voice_gains_db
    }
    if args.report:
        from report_page import write_report

        args.report.parent.mkdir(parents=True, exist_ok=True)
        write_report(args.report, about, groups, rows, songs)
        print(f"Written: {args.report}")
    if not args.plots:
        return
    from report import plot_melody

    args.plots.mkdir(parents=True, exist_ok=True)
    for row in rows:
        audio, *reference = songs[row["song_id"], row["voice_gain_db"]]()
        name = "_".join([row["song_id"], f"{row['voice_gain_db']:+g}dB", row["system"]])
        png_path = args.plots / (name.replace("/", "_") + ".png")
        plot_melody(png_path, audio, TONE_RATE, Melody.from_signed(*row["estimate"]), reference)
    print(f"Written: {len(rows)} pictures in {args.plots}")


def evaluate(args: argparse.Namespace, problems: list[str]) -> None:
    """Score, print and write; what goes wrong is added to `problems`."""
    systems, trained_under = make_systems(args, problems)
    protocol = trained_under or preproc_config.protocol
    selections = select(args, protocol, problems) if systems else []
    source = "of the checkpoint" if trained_under else "of config.py"
    names = ", ".join(s.name for s in systems)
    print(f"Protocol {protocol} ({source}); systems: {names or 'none'}")
    check_songs(args, selections, trained_under, problems)
    rows, groups = [], []
    for selection in selections:
        by_level = score_selection(selection, systems, problems)
        rows += [row for of_level in by_level.values() for row in of_level]
        groups += make_groups(selection, by_level)
    if not rows:
        problems.append("nothing was scored")
        return
    print_tables(groups, rows, args.published)
    about = {
        "created": datetime.now().isoformat(timespec="seconds"),
        "mir_eval": mir_eval.__version__,
        "protocol": protocol,
        "systems": [s.name for s in systems],
        "convention": tables.CONVENTION,
        "problems": problems,
    }
    write_files(args, about, groups, rows)
    write_pages(args, about, groups, rows, selections)


def check_songs(
    args: argparse.Namespace, selections: list[Selection], trained_under: str, problems: list[str]
) -> None:
    """Name estimates without a song, and warn of songs that the checkpoint was trained on."""
    datasets = args.dataset or [s.tracks[0].dataset for s in selections]
    for folder in args.estimates if selections else ():
        every = []
        for dataset in datasets:
            with contextlib.suppress(*ERRORS):  # `select` has named the missing set
                every += find_tracks(dataset, args.datasets_dir)
        problems += unknown_estimates(folder, every)
    for selection in selections if trained_under else ():
        n_used = trained_on(selection.tracks, trained_under)
        if n_used:
            print(
                f"Mind: protocol {trained_under} uses {n_used} of the {len(selection.tracks)} "
                f"songs of {selection.name} in training or validation; these are not test scores."
            )


def main() -> int:
    """Evaluate; 1 when anything could not be scored as asked."""
    problems: list[str] = []
    try:
        evaluate(parse_args(), problems)
    except OSError as error:  # of the output folder; songs have been dealt with
        problems.append(f"cannot write the scores: {error}")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
