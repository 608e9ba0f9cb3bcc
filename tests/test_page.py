import base64
import io
import json
import re

import numpy as np
import pytest
import soundfile

import page
from melody_io import TONE_RATE, Melody

RATE = 44100


def chirp_melody(seconds=3.0, hop_s=256 / 44100):
    times_s = np.arange(int(seconds / hop_s)) * hop_s
    voiced = times_s > 1
    return Melody(times_s, 220 * 2 ** (times_s / 3), np.where(voiced, 0.9, 0.1), voiced)


def tone(hz=440.0, seconds=3.0):
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def data_of(text):
    """The player's data in a page."""
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def decoded(uri):
    return base64.b64decode(uri.split(",", 1)[1])


def test_listening_page_holds_picture_sound_curve_and_downloads(tmp_path):
    melody, path = chirp_melody(), tmp_path / "song.html"
    page.write_page(path, melody, tone(), RATE, "song.ogg")
    text = path.read_text(encoding="utf-8")
    assert "{{" not in text and "http" not in text.replace("http-equiv", "")
    data = data_of(text)
    curve = data["curves"][0]
    steps = np.frombuffer(base64.b64decode(curve["pitch"]), "<u2") / page.STEPS_PER_SEMITONE
    hz = np.where(steps > 0, 440 * 2 ** ((steps - 69) / 12), 0)
    np.testing.assert_allclose(hz, np.where(melody.voiced, melody.f0_hz, 0), rtol=1e-4)
    assert decoded(data["image"])[:2] == b"\xff\xd8"  # JPEG
    sound, rate = soundfile.read(io.BytesIO(decoded(data["audio"])))
    assert rate == TONE_RATE and sound.shape[1] == 2 and data["two_channels"]
    assert data["duration"] == pytest.approx(3.0)
    csv = decoded(re.search(r'download="song.csv" href="([^"]+)"', text)[1])
    assert csv.startswith(b"time,frequency,confidence,voiced\n")


def test_the_picture_shows_the_tone_at_its_pitch():
    """The brightest row of the spectrogram stands where the player draws 440 Hz."""
    import av

    data = page.player_data("tone", tone()[None], [])
    with av.open(io.BytesIO(decoded(data["image"])), format="jpeg_pipe") as file:
        picture = next(file.decode(video=0)).to_ndarray(format="gray")
    share = 1 - (picture.mean(axis=1).argmax() + 0.5) / len(picture)  # from the bottom
    midi = data["midi_low"] + share * (data["midi_high"] - data["midi_low"])
    assert midi == pytest.approx(69, abs=0.2)


def test_sound_keeps_its_time():
    """A click at 1 s is at 1 s after MP3, whose encoder delays: the header must say so."""
    audio = np.zeros((1, 2 * RATE), np.float32)
    audio[0, RATE : RATE + 20] = 0.9
    sound, _ = soundfile.read(io.BytesIO(page.mp3_bytes(audio)))
    assert np.abs(sound).argmax() == pytest.approx(RATE, abs=256)


@pytest.mark.parametrize("title", ["</script><b>&\"'", "naïve ☃ {{data}}", "a\nb"])
def test_no_title_breaks_the_page(tmp_path, title):
    page.write_page(tmp_path / "p.html", chirp_melody(), tone(), RATE, title)
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert data_of(text)["title"] == title
    assert "<b>" not in text


def test_a_melody_of_one_frame_has_a_page(tmp_path):
    short = Melody(*(a[:1] for a in vars(chirp_melody()).values()))
    page.write_page(tmp_path / "p.html", short, tone(seconds=0.05), RATE, "short")
    assert data_of((tmp_path / "p.html").read_text(encoding="utf-8"))["curves"]
