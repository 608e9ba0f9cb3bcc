import json
import re

import numpy as np
import pytest

import report_page
import score_tables
from error_analysis import error_breakdown
from metrics import align, score_song

TIMES_S = np.arange(300) * 0.01


def make_rows(n_songs=3, systems=("ours", "<peer>")):
    """Rows as evaluation.py makes them: `ours` is right, the peer an octave up in some songs."""
    ref_hz = np.where(TIMES_S > 1, 220.0, 0.0)
    rows = []
    for system in systems:
        for k in range(n_songs):
            wrong = system != "ours" and k == 1
            est_hz = ref_hz * (2 if wrong else 1)
            series = (TIMES_S, ref_hz, TIMES_S, est_hz, None)
            rows.append(
                {
                    "system": system,
                    "dataset": "set",
                    "song_id": f"set/{k}",
                    "voice_gain_db": 0.0,
                    "scores": score_song(*series),
                    "errors": error_breakdown(align(*series)),
                    "estimate": (TIMES_S, est_hz),
                }
            )
    songs = {(f"set/{k}", 0.0): lambda: (noise(), TIMES_S, ref_hz) for k in range(n_songs)}
    return rows, songs


def noise():
    return np.random.default_rng(0).uniform(-0.3, 0.3, 3 * 44100).astype(np.float32)


def write(tmp_path, rows, songs, problems=()):
    about = {
        "systems": list(dict.fromkeys(r["system"] for r in rows)),
        "created": "2026-01-01",
        "mir_eval": "0",
        "protocol": "benchmark",
        "convention": score_tables.CONVENTION,
        "problems": list(problems),
    }
    path = tmp_path / "report.html"
    report_page.write_report(path, about, [score_tables.summarise("set", rows)], rows, songs)
    return path.read_text(encoding="utf-8")


def test_report_tells_the_scores_and_holds_every_song(tmp_path):
    text = write(tmp_path, *make_rows(), problems=["a < b"])
    assert "{{" not in text and "http" not in text.replace("http-equiv", "")
    assert "&lt;peer&gt;" in text and "<peer>" not in text and "a &lt; b" in text
    assert text.count('<details class="song">') == 3
    peer = re.search(r"&lt;peer&gt;<small>mean of 3 songs</small></th>(.*?)</tr>", text)[1]
    cells = re.findall(r"<td>([^<]*)", peer)
    measures = list(make_rows()[0][0]["scores"])
    assert cells[measures.index("RPA")] == "66.7" and cells[measures.index("RCA")] == "100.0"
    assert "ours minus &lt;peer&gt;" in text and "OA +22.1" in text
    data = json.loads(re.search(r'"application/json">(.*?)</script>', text, re.S)[1])
    assert [c["role"] for c in data["curves"]] == ["reference", "system0", "system1"]


def test_error_bar_is_the_partition_of_the_frames():
    counts = make_rows()[0][4]["errors"]["all"]  # the peer's song with octave errors
    bar = report_page.error_bar("peer", counts)
    shares = dict(re.findall(r'class="(\w+)" style="flex-grow:([\d.]+)"', bar))
    assert float(shares["octave_up"]) == pytest.approx(100 * 199 / 300, abs=0.01)
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=0.01)


def test_only_the_worst_songs_are_played(tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "MAX_PLAYERS", 1)
    rows, songs = make_rows(systems=("peer",))
    text = write(tmp_path, rows, songs)
    assert text.count('<details class="song">') == 1 and "<summary>set/1:" in text
