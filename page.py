"""Pages that open by double-click with no network: the listening page, and the player's data.

The player (web/player.js) draws F0 curves over a spectrogram and plays the sound under a moving
cursor. Everything is inlined into one HTML file: pictures as JPEG, sound as MP3 (which every
browser plays), curves as 16-bit pitches.
"""

import base64
import html
import io
import json
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from config import FeatureConfig
from labels import hz_to_midi, nearest_on_grid
from melody_io import (
    TONE_RATE,
    WRITERS,
    Melody,
    atomic_path,
    beside_melody,
    missing_package,
)
from report import cqt_image

WEB = Path(__file__).parent / "web"
HOW_TO = (
    "Click into the picture to jump, drag to move; then the wheel zooms (with Shift: the pitch), "
    "on a phone two fingers do. Keys: space, ← →, + −, 0."
)
MAX_COLUMNS = 6000  # of the picture
TOP_BIN = 305  # 2.2 kHz: the melody and its first partials
MP3_BITS = {1: 64_000, 2: 112_000}  # a second, by number of channels
STEPS_PER_SEMITONE = 500  # of the 16-bit pitches, as in player.js


def write_page(
    path: str | Path, melody: Melody, audio: np.ndarray, sample_rate: int, title: str
) -> None:
    """Write the listening page of one recording.

    `audio` is mono, shape (n_samples,), at `sample_rate` Hz, which is that of the analysis. The
    page plays recording and melody with a slider between them.
    """
    duration_s = len(audio) / sample_rate
    curves = [curve_data("melody", "system0", melody.times_s, melody.signed_hz, melody.confidence)]
    voiced_s = float(np.mean(melody.voiced)) * duration_s
    content = {
        "title": html.escape(title),
        "summary": f"{duration_s:.1f} s, of which the melody sounds in {voiced_s:.1f} s.",
        "downloads": download_links(melody, Path(title).stem or "melody"),
        "data": as_json(player_data(title, beside_melody(audio, sample_rate, melody), curves)),
    }
    with atomic_path(path) as part:
        part.write_text(fill("listening.html", content), encoding="utf-8")


def fill(template: str, content: dict[str, str], *more: str) -> str:
    """The page of a template of web/, inside frame.html, with player.js and the scripts `more`."""
    scripts = [(WEB / file).read_text(encoding="utf-8") for file in ("player.js", *more)]
    frame = {
        "title": content["title"],
        "style": (WEB / "player.css").read_text(encoding="utf-8"),
        "script": "\n".join(scripts),
        "body": filled(template, content | {"how_to": HOW_TO}),
    }
    return filled("frame.html", frame)


def filled(template: str, content: dict[str, str]) -> str:
    """A file of web/ with its placeholders filled in; what fills them is not searched for more."""
    pieces = (WEB / template).read_text(encoding="utf-8").split("{{")
    parts = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        parts += [content[name], rest]
    return "".join(parts)


def as_json(data: object) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


def player_data(title: str, channels: np.ndarray, curves: list[dict]) -> dict:
    """What createPlayer() of player.js takes; `channels` is (n_channels, n_samples) at 44.1 kHz.

    One channel is the recording; a second one is the melody as a tone.
    """
    image_db, _, bins_hz = cqt_image(channels[0], FeatureConfig(sample_rate=TONE_RATE), MAX_COLUMNS)
    semitones = hz_to_midi(bins_hz)
    half_bin = (semitones[1] - semitones[0]) / 2
    return {
        "title": title,
        "duration": channels.shape[1] / TONE_RATE,
        "midi_low": float(semitones[0] - half_bin),
        "midi_high": float(semitones[:TOP_BIN][-1] + half_bin),
        "image": data_uri("image/jpeg", jpeg_bytes(image_db[:TOP_BIN])),
        "audio": data_uri("audio/mpeg", mp3_bytes(channels)),
        "two_channels": len(channels) == 2,
        "curves": curves,
    }


def curve_data(
    name: str,
    role: str,
    times_s: np.ndarray,
    signed_hz: np.ndarray,
    confidence: np.ndarray | None = None,
) -> dict:
    """A curve for the player: Hz of shape (n_frames,), 0 or negative in unvoiced frames.

    `role` is "reference" or "system0".."system3" and chooses the colour.
    """
    hop_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.01
    grid_s = times_s[0] + np.arange(round((times_s[-1] - times_s[0]) / hop_s) + 1) * hop_s
    f0_hz = nearest_on_grid(times_s, signed_hz, grid_s)
    midi = np.clip(hz_to_midi(np.where(f0_hz > 0, f0_hz, 1.0)), 0, 130)
    steps = np.where(f0_hz > 0, np.maximum(1, np.round(midi * STEPS_PER_SEMITONE)), 0)
    curve = {
        "name": name,
        "role": role,
        "start": float(grid_s[0]),
        "hop": hop_s,
        "pitch": base64.b64encode(steps.astype("<u2").tobytes()).decode(),
    }
    if confidence is not None:
        percent = np.round(100 * nearest_on_grid(times_s, confidence, grid_s)).astype(np.uint8)
        curve["confidence"] = base64.b64encode(percent.tobytes()).decode()
    return curve


def jpeg_bytes(image_db: np.ndarray) -> bytes:
    """A picture of decibels (bin, column): the loudest white, low bins at the bottom."""
    import av

    low, high = float(np.percentile(image_db, 20)), float(image_db.max())
    grey = np.clip((image_db[::-1] - low) / max(high - low, 1e-6), 0, 1)
    frame = av.VideoFrame.from_ndarray(np.round(255 * grey).astype(np.uint8), format="gray")
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height = frame.width, frame.height
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 25)
    encoder.options = {"qmin": "4", "qmax": "4"}
    packets = [*encoder.encode(frame.reformat(format="yuvj420p")), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def mp3_bytes(channels: np.ndarray) -> bytes:
    """MP3 of float audio (n_channels, n_samples) at 44.1 kHz; its header tells the delay."""
    import av

    n_channels = len(channels)
    layout = "mono" if n_channels == 1 else "stereo"
    samples = np.ascontiguousarray(np.clip(channels, -1, 1), dtype=np.float32)
    target = io.BytesIO()
    with av.open(target, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=TONE_RATE, layout=layout)
        stream.bit_rate = MP3_BITS[n_channels]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.rate = TONE_RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return target.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """Bytes inside an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def download_links(melody: Melody, stem: str) -> str:
    """Buttons that save the csv, and the MIDI file where mido is installed."""
    kinds = {"csv": "text/csv", "midi": "audio/midi"}
    links = []
    for fmt, kind in kinds.items():
        if missing_package(fmt):
            continue
        content = written(fmt, melody)
        suffix = WRITERS[fmt][0]
        name = html.escape(stem + suffix, quote=True)
        address = data_uri(kind, content)
        links.append(f'<a class="button" download="{name}" href="{address}">Save {fmt}</a>')
    return " ".join(links)


def written(fmt: str, melody: Melody) -> bytes:
    """What the writer of a format puts into a file."""
    suffix, write = WRITERS[fmt]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / f"melody{suffix}", melody)
        return (Path(folder) / f"melody{suffix}").read_bytes()
