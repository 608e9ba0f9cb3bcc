import numpy as np
import pytest

from config import FeatureConfig
from melody_io import Melody

pytest.importorskip("matplotlib")
import report

SMALL = FeatureConfig(sample_rate=44_100, hop_samples=512)


def tone(f0_hz: float, n_seconds: float) -> np.ndarray:
    at_s = np.arange(int(n_seconds * SMALL.sample_rate)) / SMALL.sample_rate
    return np.sin(2 * np.pi * f0_hz * at_s).astype(np.float32)


def test_the_image_shows_a_tone_at_its_pitch_and_time(monkeypatch):
    monkeypatch.setattr(report, "CHUNK_S", 1.0)
    audio = np.concatenate([np.zeros(SMALL.sample_rate, np.float32), tone(440, 1.5)])
    image_db, times_s, bins_hz = report.cqt_image(audio, SMALL, max_columns=60)
    assert image_db.shape == (len(bins_hz), len(times_s)) and 30 <= len(times_s) <= 70
    assert (np.diff(times_s) > 0).all() and times_s[-1] == pytest.approx(2.5, abs=0.1)
    late = image_db[:, np.abs(times_s - 2.2).argmin()]
    assert bins_hz[late.argmax()] == pytest.approx(440, rel=0.012)
    assert image_db[:, np.abs(times_s - 0.3).argmin()].max() < late.max() - 30


def test_a_failed_picture_leaves_nothing(tmp_path, monkeypatch):
    melody = Melody(np.array([0.0]), np.array([100.0]), np.array([0.0]), np.array([False]))
    monkeypatch.setattr("melody_io.os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        report.plot_melody(tmp_path / "a.png", np.zeros(441, np.float32), 44_100, melody)
    assert not list(tmp_path.iterdir())


def test_training_log_plots_what_is_there(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(
        "epoch,at,train_loss,val_OA,learning_rate\n1,noon,2.0,,1e-3\n2,one,1.5,0.5,1e-4\n"
    )
    columns = report._read_log(log)
    assert sorted(columns) == ["epoch", "learning_rate", "train_loss", "val_OA"]
    assert np.isnan(columns["val_OA"][0])
    report.plot_training_log(log, tmp_path / "log.png")
    assert (tmp_path / "log.png").read_bytes().startswith(b"\x89PNG")


def test_curves_of_one_kind_share_a_panel(tmp_path, monkeypatch):
    log = tmp_path / "log.csv"
    names = ("train_pitch", "train_total", "val_total", "val_OA", "val_RPA25", "learning_rate")
    log.write_text(f"epoch,{','.join(names)}\n1,3,4,5,0.8,0.7,1e-3\n2,2,3,4,0.9,0.8,1e-4\n")
    drawn = []
    monkeypatch.setattr(report, "_save", lambda figure, _: drawn.append(figure))
    report.plot_training_log(log, tmp_path / "log.png")
    panels = {axes.get_title(): [line.get_label() for line in axes.lines] for axes in drawn[0].axes}
    assert panels == {
        "loss": ["train_pitch", "train_total", "val_total"],
        "score": ["val_OA", "val_RPA25"],
        "learning_rate": ["learning_rate"],
    }


@pytest.mark.parametrize("text", ["", "epoch,loss\n", "step,loss\n1,2\n"])
def test_other_files_are_no_training_log(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match=r"log\.csv: no training log"):
        report.plot_training_log(tmp_path / "log.csv", tmp_path / "log.png")
