"""Summaries of scores, and their tables: text for the screen, JSON and CSV for programs."""

import csv
import io
import json
import math
from pathlib import Path

from baselines import PUBLISHED, PUBLISHED_MEASURES
from config import evaluation_config
from error_analysis import add_counts
from melody_io import atomic_path
from metrics import COUNTS, bootstrap_interval, measures_of, paired_difference, pooled, song_mean

COMPARED = ("OA", "RPA")  # in the paired comparisons
LABELS = ("system", "dataset", "song_id", "voice_gain_db")  # of a song's row, before its measures
HEADINGS = {"RPA_no_guess": "RPA*", "RCA_no_guess": "RCA*", "d_prime": "d'"}
CONVENTION = (
    "Whole recordings on the reference's own time grid, mir_eval, 50 cents; RPA25 and RPA10 at 25 "
    "and 10 cents. RPA and RCA count pitch guesses in frames called unvoiced; RPA* and RCA* do "
    "not (guesses set to 0). VF: F-measure of voicing; d': its sensitivity."
)
PARTITION = (
    *("correct", "octave_up", "octave_down", "other_harmonic", "semitone", "other_pitch"),
    *("missed_voicing", "false_voicing", "correct_unvoiced"),
)


def summarise(name: str, rows: list[dict]) -> dict:
    """Averages, intervals, errors of each system over these rows, and paired comparisons."""
    settings = (evaluation_config.n_bootstrap, evaluation_config.seed)
    by_system = {}
    for row in rows:
        by_system.setdefault(row["system"], []).append(row)
    scores = {system: [r["scores"] for r in own] for system, own in by_system.items()}
    means = {system: song_mean(own) for system, own in scores.items()}
    systems = [
        {
            "system": system,
            "n_songs": len(own),
            "n_unvoiced_songs": sum(one["n_voiced"] == 0 for one in scores[system]),
            "song_mean": means[system],
            "interval": {
                m: bootstrap_interval([one[m] for one in scores[system]], *settings)
                for m in means[system]
            },
            "pooled": pooled(scores[system]),
            "errors": add_counts([r["errors"] for r in own]),
        }
        for system, own in by_system.items()
    ]
    first, *others = by_system
    comparisons = [
        {
            "first": first,
            "second": other,
            "measures": {
                m: paired_difference(
                    *({r["song_id"]: r["scores"][m] for r in by_system[s]} for s in (first, other)),
                    *settings,
                )
                for m in COMPARED
            },
        }
        for other in others
    ]
    return {"name": name, "systems": systems, "comparisons": comparisons}


def format_table(header: list[str], rows: list[list[str]], indent: str = "  ") -> str:
    """Aligned text: the first column to the left, the others to the right."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        padded = [
            c.rjust(w) if i else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(indent + "  ".join(padded).rstrip())
    return "\n".join(lines)


def show(measure: str, value: float) -> str:
    """Return a share as percent, d' as it is, "-" where it is undefined."""
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if measure == "d_prime" else f"{100 * value:.1f}"


def group_table(group: dict) -> str:
    """One data set or subset, averages and intervals of each system; see `summarise`."""
    measures = list(group["systems"][0]["song_mean"])
    rows = []
    for system in group["systems"]:
        lows, highs = ({m: i[k] for m, i in system["interval"].items()} for k in (0, 1))
        for label, values in (
            (f"{system['system']}, song mean of {system['n_songs']}", system["song_mean"]),
            ("  95 % interval from", lows),
            ("  to", highs),
            ("  pooled", system["pooled"]),
        ):
            rows.append([label, *(show(m, values[m]) for m in measures)])
    table = format_table([group["name"], *(HEADINGS.get(m, m) for m in measures)], rows, "")
    undefined = [
        f"{s['system']}: {s['n_unvoiced_songs']} song(s) without a voiced reference frame are "
        "left out of VR, RPA, RCA"
        for s in group["systems"]
        if s["n_unvoiced_songs"]
    ]
    return "\n".join([table, *undefined, *map(comparison_line, group["comparisons"])])


def comparison_line(comparison: dict) -> str:
    """Paired differences of two systems with their intervals."""
    parts = [
        f"{m} {100 * d['difference']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]"
        for m, d in comparison["measures"].items()
    ]
    n_songs = max(d["n_songs"] for d in comparison["measures"].values())
    first, second = comparison["first"], comparison["second"]
    return f"{first} minus {second}, {n_songs} songs, 95 %: {', '.join(parts)}"


def songs_table(rows: list[dict]) -> str:
    """Lay out one line for each song and system."""
    measures = measures_of([row["scores"] for row in rows])
    header = ["song", *(HEADINGS.get(m, m) for m in measures)]
    body = []
    for row in rows:
        name = f"{song_name(row['song_id'], row['voice_gain_db'])} {row['system']}"
        body.append([name, *(show(m, row["scores"][m]) for m in measures)])
    return format_table(header, body)


def song_name(song_id: str, voice_gain_db: float) -> str:
    """A song with the level of its voice, where that is not as recorded."""
    return song_id + (f" {voice_gain_db:+g} dB" if voice_gain_db else "")


def percent_of_frames(counts: dict[str, int]) -> dict[str, float]:
    """The classes of PARTITION in percent; empty without frames."""
    n_frames = sum(counts[name] for name in PARTITION)
    return {name: 100 * counts[name] / n_frames for name in PARTITION} if n_frames else {}


def errors_table(errors: dict[str, dict[str, int]]) -> str:
    """Lay out the error breakdown in percent of the frames in each line."""
    body = []
    for part, counts in errors.items():
        if shares := percent_of_frames(counts):
            n_frames = sum(counts[name] for name in PARTITION)
            body.append([part, str(n_frames), *(f"{share:.1f}" for share in shares.values())])
    lines = [format_table(["reference", "frames", *(n.replace("_", " ") for n in PARTITION)], body)]
    for kind in ("missed", "false"):
        counts = errors["all"]
        total = counts[f"{kind}_voicing"]
        if total:
            near = (100 * counts[f"{kind}_near_{edge}"] / total for edge in ("onset", "offset"))
            lines.append(
                "  {} voicing within 100 ms of an onset {:.0f} %, of an offset {:.0f} %".format(
                    kind, *near
                )
            )
    return "\n".join(lines)


def published_table(subset: str) -> str:
    """Lay out the published rows of a subset, with how their protocol differs."""
    rows = PUBLISHED[subset]
    body = [[name, *(f"{v:.1f}" for v in values)] for name, values, _ in rows]
    header = [f"{subset}, as PUBLISHED", *PUBLISHED_MEASURES]
    notes = ["how it differs", *(differs for _, _, differs in rows)]
    lines = format_table(header, body, "").splitlines()
    return "\n".join(f"{line}   {note}" for line, note in zip(lines, notes, strict=True))


def write_json(path: Path, content: dict) -> None:
    """Write plain types; NaN becomes null."""
    text = json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n"
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_csv(path: Path, rows: list[dict]) -> None:
    """One line for each song and system: labels, measures as shares, counts, error counts."""
    measures = measures_of([row["scores"] for row in rows])
    errors = list(rows[0]["errors"]["all"])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*LABELS, *measures, *COUNTS, *errors])
    for row in rows:
        scores, counts = row["scores"], row["errors"]["all"]
        values = ["" if math.isnan(scores[m]) else f"{scores[m]:.6f}" for m in measures]
        counts = [*(scores[c] for c in COUNTS), *(counts[e] for e in errors)]
        writer.writerow([*(row[label] for label in LABELS), *values, *counts])
    with atomic_path(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8")
