"""The report of an evaluation: one HTML file with tables, errors, and each song to play.

It opens with no network. Structure of `groups` and `rows`: score_tables.py.
"""

import html
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from melody_io import atomic_path
from metrics import measures_of
from page import as_json, curve_data, fill, player_data
from score_tables import (
    HEADINGS,
    PARTITION,
    comparison_line,
    percent_of_frames,
    show,
    song_name,
)

MAX_PLAYERS = 20  # the worst songs of the first system; each adds about 1 MB to the page
MAX_CURVES = 4  # systems drawn over one song: as many as player.css has colours for
escape = html.escape


def write_report(
    path: str | Path,
    about: dict,
    groups: list[dict],
    rows: list[dict],
    songs: dict[tuple[str, float], Callable[[], tuple]],
) -> None:
    """Write the page.

    `rows` carry, beside their scores, `estimate`: (times_s, signed_hz) of shape (n_frames,).
    `songs` maps (song_id, voice_gain_db) to a function that reads the recording: mono audio of
    shape (n_samples,) at 44.1 kHz, times_s and f0_hz of the reference, shape (n_ref,).
    """
    shown = worst_songs(rows)
    systems = ", ".join(about["systems"])
    note = f"The {len(shown)} songs" if len(shown) < len(songs) else "All songs"
    content = {
        "title": f"Melody extraction: {escape(', '.join(g['name'] for g in groups[:1]))}",
        "about": escape(
            f"{systems}. Scored on {about['created']} with mir_eval {about['mir_eval']}; "
            f"protocol {about['protocol']}."
        ),
        "convention": escape(about["convention"]),
        "problems": "".join(f'<p class="problem">{escape(p)}</p>' for p in about["problems"]),
        "groups": "\n".join(map(group_section, groups)),
        "songs": songs_table(rows),
        "listen": f"{note}, where {escape(about['systems'][0])} is least accurate first.",
        "players": "\n".join(song_player(key, rows, songs[key]) for key in shown),
    }
    with atomic_path(path) as part:
        part.write_text(fill("report.html", content, "table.js"), encoding="utf-8")


def worst_songs(rows: list[dict]) -> list[tuple[str, float]]:
    """(song_id, voice_gain_db) of the songs to listen to, the least accurate first."""
    first = [row for row in rows if row["system"] == rows[0]["system"]]
    first.sort(key=lambda row: row["scores"]["OA"])
    return [(row["song_id"], row["voice_gain_db"]) for row in first[:MAX_PLAYERS]]


def group_section(group: dict) -> str:
    """Averages with intervals, comparisons and error bars of a data set or subset."""
    measures = list(group["systems"][0]["song_mean"])
    body = []
    for system in group["systems"]:
        label = f"{escape(system['system'])}<small>mean of {system['n_songs']} songs</small>"
        cells = [mean_cell(m, system) for m in measures]
        body.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
        cells = [f"<td>{show(m, system['pooled'][m])}</td>" for m in measures]
        body.append(f'<tr class="pooled"><th scope="row">pooled</th>{"".join(cells)}</tr>')
    bars = [error_bar(system["system"], system["errors"]["all"]) for system in group["systems"]]
    return "\n".join(
        [
            f"<h2>{escape(group['name'])}</h2>",
            table("", ["system", *(HEADINGS.get(m, m) for m in measures)], body),
            *(f"<p>{escape(comparison_line(c))}</p>" for c in group["comparisons"]),
            f"<figure>{legend()}{''.join(bars)}",
            "<figcaption>What became of each frame, in percent.</figcaption></figure>",
        ]
    )


def table(css_class: str, header: list[str], body: list[str]) -> str:
    """An HTML table in a box that scrolls sideways on a narrow screen."""
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    return (
        f'<div class="wide" tabindex="0"><table class="{css_class}"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def mean_cell(measure: str, system: dict) -> str:
    """A mean, its 95 % interval below it."""
    low, high = (show(measure, value) for value in system["interval"][measure])
    return f"<td>{show(measure, system['song_mean'][measure])}<small>{low}–{high}</small></td>"


def legend() -> str:
    """The classes of frames with their colours."""
    keys = (f'<li><i class="{name}"></i>{name.replace("_", " ")}</li>' for name in PARTITION)
    return f'<ul class="legend">{"".join(keys)}</ul>'


def error_bar(system: str, counts: dict[str, int]) -> str:
    """A bar of the shares of PARTITION."""
    shares = percent_of_frames(counts)
    label = ", ".join(f"{name.replace('_', ' ')} {share:.1f} %" for name, share in shares.items())
    pieces = "".join(
        f'<i class="{name}" style="flex-grow:{share:.3f}" '
        f'title="{name.replace("_", " ")} {share:.1f} %"></i>'
        for name, share in shares.items()
    )
    return (
        f'<div class="bar"><span>{escape(system)}</span>'
        f'<div role="img" aria-label="{escape(label)}">{pieces}</div></div>'
    )


def songs_table(rows: list[dict]) -> str:
    """A sortable line for each song and system."""
    measures = measures_of([row["scores"] for row in rows])
    body = []
    for row in rows:
        texts = (song_name(row["song_id"], row["voice_gain_db"]), row["system"])
        cells = [f"<td>{escape(text)}</td>" for text in texts]
        for measure in measures:
            value = row["scores"][measure]
            number = "" if math.isnan(value) else f"{value:.6f}"
            cells.append(f'<td data-value="{number}">{show(measure, value)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return table("sortable", ["song", "system", *(HEADINGS.get(m, m) for m in measures)], body)


def song_player(key: tuple[str, float], rows: list[dict], read: Callable[[], tuple]) -> str:
    """One song, closed: its scores, its picture, its sound."""
    audio, ref_times_s, ref_hz = read()
    of_song = [row for row in rows if (row["song_id"], row["voice_gain_db"]) == key]
    curves = [curve_data("reference", "reference", ref_times_s, ref_hz)]
    curves += [
        curve_data(row["system"], f"system{k}", *row["estimate"])
        for k, row in enumerate(of_song[:MAX_CURVES])
    ]
    data = player_data(key[0], np.asarray(audio)[None], curves)
    scores = ", ".join(f"{r['system']} OA {show('OA', r['scores']['OA'])}" for r in of_song)
    return (
        f'<details class="song"><summary>{escape(song_name(*key))}: {escape(scores)}</summary>'
        f'<script type="application/json">{as_json(data)}</script>'
        '<div class="root"></div></details>'
    )
