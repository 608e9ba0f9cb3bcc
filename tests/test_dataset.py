import errno
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import config
import dataset
import features
import labels
from config import SCHEMA_VERSION
from dataset import NpzWriter, StemMixer, TrainDataset, WindowDataset, open_arrays

N_BINS, N_FRAMES = 190, 40
TONE_BIN = 80


def add_rows(writer, n=3):
    rng = np.random.default_rng(0)
    for k in range(n):
        writer.add("X", rng.normal(size=(1, 4, 5)).astype(np.float16))
        writer.add("valid", rng.random(5) > 0.5)
        writer.add("song_ids", np.array(f"a/{k}+0", dtype="U20"))
        writer.add("start_frame", np.array(k))


def expected_rows(n=3):
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(1, 4, 5)).astype(np.float16), rng.random(5) > 0.5) for _ in range(n)]
    return [np.stack(part) for part in zip(*pairs, strict=True)]


def write_some(path):
    with NpzWriter(path) as writer:
        add_rows(writer)
        writer.close(norm_mean=np.zeros((4, 1)), settings="{}")


class TestNpzWriter:
    def test_plain_numpy_opens_it_and_the_mapping_is_equal(self, tmp_path, monkeypatch):
        path = tmp_path / "deep" / "a.npz"
        write_some(path)
        monkeypatch.setattr(dataset, "COPY_BYTES", 8)  # so that everything is mapped
        mapped = open_arrays(path)
        assert isinstance(mapped["X"], np.memmap) and isinstance(mapped["valid"], np.memmap)
        windows, valid = expected_rows()
        with np.load(path, allow_pickle=False) as loaded:
            assert set(loaded) == set(mapped) == {
                "X", "valid", "song_ids", "start_frame", "norm_mean", "settings",
            }  # fmt: skip
            for key in loaded:
                np.testing.assert_array_equal(loaded[key], mapped[key])
                assert loaded[key].dtype == mapped[key].dtype
            np.testing.assert_array_equal(loaded["X"], windows)
            np.testing.assert_array_equal(loaded["valid"], valid)
            assert loaded["song_ids"].tolist() == ["a/0+0", "a/1+0", "a/2+0"]
            assert loaded["start_frame"].tolist() == [0, 1, 2]
            assert str(loaded["settings"]) == "{}"
        assert [p.name for p in path.parent.iterdir()] == ["a.npz"]

    def test_transforms_apply_to_every_row(self, tmp_path):
        with NpzWriter(tmp_path / "a.npz") as writer:
            add_rows(writer)
            writer.close(transforms={"X": lambda x: x.astype(np.float32) * 2 - 1})
        loaded = np.load(tmp_path / "a.npz")["X"]
        assert loaded.dtype == np.float16
        np.testing.assert_allclose(loaded, expected_rows()[0].astype(float) * 2 - 1, atol=4e-3)

    def test_compressed_files_are_read_as_well(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", X=np.arange(6).reshape(2, 3))
        np.testing.assert_array_equal(open_arrays(tmp_path / "a.npz")["X"], [[0, 1, 2], [3, 4, 5]])

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_exception_leaves_nothing_behind(self, tmp_path, error):
        with pytest.raises(error), NpzWriter(tmp_path / "a.npz") as writer:
            add_rows(writer)
            raise error
        assert list(tmp_path.iterdir()) == []

    def test_rows_of_another_shape_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="X: row of float16"), NpzWriter(tmp_path / "a") as w:
            add_rows(w)
            w.add("X", np.zeros((1, 4, 6), np.float16))
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_while_rows_are_written_leaves_nothing(self, tmp_path, monkeypatch):
        """As the kernel does it: buffered writes succeed, then flush and close both fail."""

        class FullDisk(io.BytesIO):
            def close(self):
                if not self.closed:
                    super().close()
                    raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(dataset, "open", lambda *_: FullDisk(), raising=False)
        with pytest.raises(OSError) as caught, NpzWriter(tmp_path / "a.npz") as writer:
            add_rows(writer)
            writer.close()
        assert caught.value.errno == errno.ENOSPC
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_while_joining_keeps_the_file_that_was_there(self, tmp_path, monkeypatch):
        write_some(tmp_path / "a.npz")
        before = (tmp_path / "a.npz").read_bytes()

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(dataset.shutil, "copyfileobj", full)
        with pytest.raises(OSError) as caught:
            write_some(tmp_path / "a.npz")
        assert caught.value.errno == errno.ENOSPC
        assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
        assert (tmp_path / "a.npz").read_bytes() == before


def test_unreadable_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `uv run preprocessing.py` first"):
        open_arrays(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    write_some(tmp_path / "cut.npz")
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("text.npz", "cut.npz"):
        with pytest.raises(ValueError, match=f"{name} is not a readable .npz"):
            open_arrays(tmp_path / name)


@pytest.mark.parametrize(("n_frames", "n_windows"), [(1, 1), (10, 1), (11, 2), (25, 3)])
def test_windows_are_cut_and_the_last_one_is_padded(n_frames, n_windows):
    array = np.arange(1, 2 * n_frames + 1).reshape(2, n_frames)
    windows = dataset.cut_windows(array, 10)
    assert [w.shape for w in windows] == [(2, 10)] * n_windows
    joined = np.concatenate(windows, axis=1)
    np.testing.assert_array_equal(joined[:, :n_frames], array)
    assert not joined[:, n_frames:].any()


@pytest.fixture
def plain(tiny_features):
    return config.to_plain(tiny_features)


def write_split(path, feature_settings, **changed):
    """A split of 6 windows with a tone at bin 80."""
    f0_hz = 65.0 * 2 ** (TONE_BIN / 60)
    with NpzWriter(path) as writer:
        for k in range(6):
            window = np.full((1, N_BINS, N_FRAMES), -1, np.float16)
            window[0, TONE_BIN] = 3 + k / 8
            writer.add("X", window)
            for key in dataset.LABEL_KEYS:
                writer.add(key, np.zeros(N_FRAMES, np.uint8))
            writer.add("f0_hz", np.full(N_FRAMES, f0_hz, np.float32))
            writer.add("valid", np.arange(N_FRAMES) < N_FRAMES - k)
            writer.add("lead_kind", np.array(k // 2, np.uint8))  # unknown, sung, played
            writer.add("song_ids", np.array(f"a/{k}+0"))
        constants = {
            "norm_mean": np.full((N_BINS, 1), -2, np.float32),
            "norm_std": np.full((N_BINS, 1), 1.5, np.float32),
            "schema_version": SCHEMA_VERSION,
            "settings": json.dumps({"features": feature_settings, "preproc": {"protocol": "ah1"}}),
        } | changed
        writer.close(**{k: v for k, v in constants.items() if v is not None})
    return path


def test_a_split_is_read_as_it_was_written(tmp_path, plain):
    data = WindowDataset(write_split(tmp_path / "a.npz", plain), plain)
    x, f0_hz, valid, voicing = data[3]
    assert len(data) == 6 and x.shape == (1, N_BINS, N_FRAMES) and x.dtype == torch.float32
    assert x[0, TONE_BIN].tolist() == [3.375] * N_FRAMES
    assert f0_hz[0].item() == pytest.approx(65 * 2 ** (80 / 60)) and valid.sum() == N_FRAMES - 3
    assert (voicing == labels.SUNG_TARGET).all()


def test_windows_in_a_row_follow_one_another(tmp_path, plain):
    data = WindowDataset(write_split(tmp_path / "a.npz", plain), plain, windows_in_row=3)
    x, f0_hz, valid, voicing = data[1]  # windows 3, 4 and 5
    assert len(data) == 2 and x.shape == (1, N_BINS, 3 * N_FRAMES)
    assert x[0, TONE_BIN, ::N_FRAMES].tolist() == [3.375, 3.5, 3.625]
    assert f0_hz.shape == (3 * N_FRAMES,)
    assert valid.reshape(3, N_FRAMES).sum(1).tolist() == [N_FRAMES - k for k in (3, 4, 5)]
    assert voicing[::N_FRAMES].tolist() == [labels.SUNG_TARGET] + 2 * [labels.PLAYED_TARGET]


@pytest.mark.parametrize(("first", "expected"), [(0, [0, 1]), (2, [2, 3]), (3, [2, 3])])
def test_rows_at_the_end_of_a_set_are_as_long_as_others(first, expected):
    assert dataset.joined(np.arange(4)[:, None], first, 2).tolist() == expected


@pytest.mark.parametrize(
    ("name", "value"), [("hop_samples", 256), ("fmin_hz", 65.4), ("gamma_hz", 0.0)]
)
def test_other_settings_are_refused_by_name(tmp_path, plain, name, value):
    path = write_split(tmp_path / "a.npz", plain | {name: value})
    with pytest.raises(ValueError, match=f"a.npz was made with {name} = {value}, config.py says"):
        WindowDataset(path, plain)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schema_version": 0}, "has schema 0, this code 1; run"),
        ({"schema_version": None}, "lacks schema_version; run"),
        ({"settings": None}, "lacks settings"),
        ({"norm_mean": None, "norm_std": None}, "lacks norm_mean, norm_std"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, plain, changed, message):
    path = write_split(tmp_path / "a.npz", plain, **changed)
    with pytest.raises(ValueError, match=message):
        WindowDataset(path, plain)


def test_stems_of_other_settings_are_refused(tmp_path, tiny_features, plain, plain_train_config):
    with NpzWriter(tmp_path / "stems.npz") as writer:
        for key in dataset.STEM_KEYS:
            writer.add(key, np.zeros(3))
        settings = json.dumps({"features": plain | {"rms_level": 0.2}})
        writer.close(schema_version=SCHEMA_VERSION, settings=settings)
    path = write_split(tmp_path / "a.npz", plain)
    remixing = replace(plain_train_config, remix=0.5)
    with pytest.raises(ValueError, match="stems.npz was made with rms_level"):
        TrainDataset(path, tmp_path / "stems.npz", tiny_features, plain, remixing)
    unmixed = TrainDataset(path, tmp_path / "stems.npz", tiny_features, plain, plain_train_config)
    assert unmixed.mixer is None  # what is not used is not asked for


@pytest.fixture
def augmented(tmp_path, tiny_features, plain, plain_train_config):
    path = write_split(tmp_path / "a.npz", plain)

    def make(**changes):
        settings = replace(plain_train_config, **changes)
        return TrainDataset(path, None, tiny_features, plain, settings)

    return make


def test_without_augmentation_windows_stay_as_they_are(augmented):
    data = augmented()
    for k in range(len(data)):
        for ours, plain_one in zip(data[k], WindowDataset.__getitem__(data, k), strict=True):
            assert torch.equal(ours, plain_one)


def test_f0_moves_with_a_rolled_window(augmented):
    data, moves = augmented(roll_bins=10), set()
    for k in range(len(data)):
        x, f0_hz, *_ = data[k]
        bins = round(60 * np.log2(f0_hz[0].item() / 65.0)) - TONE_BIN
        assert x[0, :, 5].argmax().item() == TONE_BIN + bins
        moves.add(bins)
    assert len(moves) > 2 and max(map(abs, moves)) <= 10


def test_gain_is_added_in_units_of_the_deviation(augmented):
    loud = augmented(level_db=(6.0, 6.0))[2][0] - augmented()[2][0]
    np.testing.assert_allclose(loud, np.log(10) * 6 / 20 / 1.5, atol=1e-5)


def test_masks_hide_whole_bands(augmented):
    data = augmented(mask_bins=30, mask_frames=200)  # wider than the window: not an error
    masked = [data[k][0][0] == 0 for k in range(6)]
    assert any(m.all(dim=1).any() and m.all(dim=0).any() for m in masked)
    assert any(not m.any() for m in masked)
    assert not (WindowDataset.__getitem__(data, 0)[0] == 0).any()


def test_random_choices_depend_on_seed_epoch_and_index_alone(augmented):
    changes = {"roll_bins": 10, "tilt_db": 8.0, "level_db": (-8.0, 8.0)}
    a, b, other = augmented(**changes), augmented(**changes), augmented(**changes, seed=2)
    b[0], b[1]  # noqa: B018 - drawn in another order
    assert torch.equal(a[4][0], b[4][0])
    assert not torch.equal(a[4][0], other[4][0])
    b.epoch = 1
    assert not torch.equal(a[4][0], b[4][0])


@pytest.mark.parametrize("bins", [-3, 0, 4])
def test_roll_fills_the_edge_with_zeros(bins):
    window = np.arange(1.0, 11)[:, None] * np.ones(3)
    rolled = dataset.roll_bins(window, bins)
    expected = {-3: [4, 5, 6, 7, 8, 9, 10, 0, 0, 0], 0: list(range(1, 11)),
                4: [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]}  # fmt: skip
    assert rolled[:, 1].tolist() == expected[bins]
    assert window[0, 0] == 1  # the caller's array


class PlainMixer(StemMixer):
    """Mixes what it draws, and nothing else."""

    SILENT_LEAD = SILENT_ROW = HARMONY = LONE_LEAD = 0.0
    SAME_SONG = 1.0


@pytest.fixture
def stems(tone, tiny_features):
    """Lead at the centre of bin 80, backing elsewhere, and their complex windows."""
    f0_hz = 65.0 * 2 ** (TONE_BIN / 60)
    lead = tone(f0_hz, 0.6, 8000, n_harmonics=2)
    backing = tone(98.0, 0.6, 8000) + tone(123.0, 0.6, 8000)
    windows = {}
    for kind, audio in (("lead", lead), ("backing", backing)):
        transform = features.complex_cqt(audio, tiny_features, margin_bins=10)
        windows[kind] = np.stack([transform.real, transform.imag], axis=-1)[None].astype(np.float16)
    n_frames = windows["lead"].shape[2]
    windows |= {
        "f0_hz": np.full((1, n_frames), f0_hz, np.float32),
        "valid": np.arange(n_frames)[None] < n_frames - 3,
        "backing_index": np.array([0]),
        "backing_may_lead": np.array([True]),
        "lead_kind": np.array([labels.PLAYED]),
    }
    return lead, backing, windows


@pytest.mark.parametrize("gain_db", [-6.0, 9.0])
def test_a_mix_of_stems_is_the_transform_of_the_mixed_audio(
    stems, tiny_features, plain_train_config, gain_db
):
    lead, backing, arrays = stems
    settings = replace(plain_train_config, voice_gain_db=(gain_db, gain_db))
    mixer = PlainMixer(arrays, tiny_features, settings)
    log_cqt, f0_hz, valid, voicing = mixer.draw(np.random.default_rng(0))
    gain = 10 ** (gain_db / 20)
    mix = ((lead * gain + backing) / np.sqrt(1 + gain**2)).astype(np.float32)
    expected = features.log_magnitude(features.complex_cqt(mix, tiny_features), tiny_features)
    assert np.abs(log_cqt - expected).mean() < 0.05  # quiet bins are sensitive
    loud = expected > np.log(0.05)
    assert np.quantile(np.abs(log_cqt - expected)[loud], 0.95) < 0.1
    np.testing.assert_array_equal(f0_hz, arrays["f0_hz"][0])
    np.testing.assert_array_equal(valid, arrays["valid"][0])
    assert (voicing == labels.PLAYED_TARGET).all()


def test_f0_moves_with_the_lead_of_a_mix(stems, tiny_features, plain_train_config):
    _, _, arrays = stems
    settings = replace(plain_train_config, roll_bins=10, voice_gain_db=(30.0, 30.0))
    mixer, moves = PlainMixer(arrays, tiny_features, settings), set()
    for seed in range(8):
        log_cqt, f0_hz, *_ = mixer.draw(np.random.default_rng(seed))
        bins = round(60 * np.log2(f0_hz[0] / 65.0)) - TONE_BIN
        assert log_cqt[:, 20].argmax() == TONE_BIN + bins
        moves.add(bins)
    assert len(moves) > 3


def test_a_mix_without_lead_is_unvoiced(stems, tiny_features, plain_train_config):
    _, backing, arrays = stems

    class Silent(PlainMixer):
        SILENT_LEAD = 1.0

    log_cqt, f0_hz, valid, voicing = Silent(arrays, tiny_features, plain_train_config).draw(
        np.random.default_rng(0)
    )
    assert not f0_hz.any() and valid.all() and (voicing == labels.NOT_SUNG_TARGET).all()
    arrays["backing_may_lead"][:] = False
    mixer = Silent(arrays, tiny_features, plain_train_config)
    assert (mixer.draw(np.random.default_rng(0))[3] == labels.UNVOICED_TARGET).all()
    expected = features.log_magnitude(features.complex_cqt(backing, tiny_features), tiny_features)
    assert np.abs(log_cqt - expected).mean() < 0.05


def test_a_lead_may_be_silent_in_a_part_of_a_row(stems, tiny_features, plain_train_config):
    """Where it is silent only the backing sounds, and the labels say so."""

    class Pausing(PlainMixer):
        SILENT_LEAD = 0.5

    rows = {k: np.concatenate([v, v]) for k, v in stems[2].items()}
    rows["backing_index"] = np.array([0, 1])
    settings = replace(plain_train_config, windows_in_row=2)
    mixer, seen = Pausing(rows, tiny_features, settings), set()
    for seed in range(12):
        log_cqt, f0_hz, valid, voicing = mixer.draw(np.random.default_rng(seed))
        n_frames = stems[2]["f0_hz"].shape[1]
        assert log_cqt.shape == (190, 2 * n_frames) and valid.shape == f0_hz.shape
        halves = log_cqt[TONE_BIN].reshape(2, n_frames)[:, 5:-5].mean(axis=1)
        voiced = f0_hz.reshape(2, n_frames).any(axis=1)
        assert valid.reshape(2, n_frames).all(axis=1).tolist() == (~voiced).tolist()
        if voiced.any() and not voiced.all():
            assert halves[voiced][0] > halves[~voiced][0] + 1
        seen.add(tuple(voiced))
    assert len(seen) == 4


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_instruments_lead_as_often_as_asked(stems, tiny_features, plain_train_config, share):
    _, _, arrays = stems
    rows = {k: np.concatenate([v] * 4) for k, v in arrays.items()}
    rows["lead_kind"] = np.array([labels.SUNG, labels.SUNG, labels.PLAYED, labels.UNKNOWN_LEAD])
    mixer = PlainMixer(rows, tiny_features, replace(plain_train_config, played_share=share))
    draws = [mixer.draw(np.random.default_rng(seed))[3][0] for seed in range(200)]
    assert abs(np.mean(np.array(draws) == labels.PLAYED_TARGET) - share) < 0.1
    if share == 0.3:
        assert labels.VOICED_TARGET in draws  # an unknown lead counts among the others


def test_a_lone_voice_draws_any_backing(stems, tiny_features, plain_train_config):
    _, _, arrays = stems
    lone = arrays | {"backing_index": np.array([-1])}
    drawn = PlainMixer(lone, tiny_features, plain_train_config).draw(np.random.default_rng(0))[0]
    own = PlainMixer(arrays, tiny_features, plain_train_config).draw(np.random.default_rng(0))[0]
    assert np.abs(drawn - own).mean() < 0.01  # there is one backing only


def test_rolls_beyond_the_margin_are_refused(stems, tiny_features, plain_train_config):
    with pytest.raises(ValueError, match="roll_bins 11 exceeds the 10 bins"):
        StemMixer(stems[2], tiny_features, replace(plain_train_config, roll_bins=11))


def test_rows_longer_than_the_stems_are_refused(stems, tiny_features, plain_train_config):
    longer = replace(plain_train_config, windows_in_row=2)
    with pytest.raises(ValueError, match="windows_in_row 2 exceeds the 1 windows of the stems"):
        StemMixer(stems[2], tiny_features, longer)
