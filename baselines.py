"""What can be scored: our checkpoints, output files, other systems; published rows to cite.

Each adapter of another system calls that system's own library, which is optional here, and returns
times in seconds and Hz by the MIREX sign convention (negative: unvoiced, with a pitch guess).

Melodia: J. Salamon and E. Gomez, IEEE TASLP 20(6), 2012, in essentia (AGPL). pYIN: M. Mauch and
S. Dixon, ICASSP 2014, in librosa, and CREPE (tiny): J. W. Kim et al., ICASSP 2018, in torchcrepe;
both are made for one voice alone. Basic Pitch: R. Bittner et al., ICASSP 2022, a transcriber of
all voices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from config import PROTOCOLS, train_config
from corpora import ANNOTATION_SUFFIXES, Track, read_audio
from extractor import newest_network
from melody_io import read_melody

PYIN_RANGE_HZ = (65.406, 1046.5)  # C2..C6


@dataclass(frozen=True)
class Baseline:
    """An installed system: the audio it wants and the function that runs it."""

    module: str  # that must be importable
    sample_rate: int  # Hz
    run: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]  # (audio, rate) -> (s, Hz)


def _run_melodia(audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    import essentia
    import essentia.standard as es

    essentia.log.infoActive = False
    hop_samples = 128
    loud = es.EqualLoudness(sampleRate=sample_rate)(np.asarray(audio, dtype=np.float32))
    extractor = es.PredominantPitchMelodia(
        sampleRate=sample_rate, hopSize=hop_samples, frameSize=2048, guessUnvoiced=True
    )
    f0_hz, confidence = extractor(loud)
    times_s = np.arange(len(f0_hz)) * hop_samples / sample_rate
    # A guess for a frame outside the melody contour has a negative confidence.
    return times_s, np.where(confidence > 0, f0_hz, -f0_hz).astype(np.float64)


def _run_pyin(audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    import librosa

    hop_samples = 256
    low_hz, high_hz = PYIN_RANGE_HZ
    f0_hz, voiced, _ = librosa.pyin(
        audio, fmin=low_hz, fmax=high_hz, sr=sample_rate, hop_length=hop_samples, fill_na=None
    )
    times_s = np.arange(len(f0_hz)) * hop_samples / sample_rate
    return times_s, np.where(voiced, f0_hz, -f0_hz)


def _run_crepe(audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    import torch
    import torchcrepe

    hop_samples = 160
    low_hz, high_hz = PYIN_RANGE_HZ
    f0_hz, periodicity = torchcrepe.predict(
        torch.from_numpy(np.asarray(audio, dtype=np.float32))[None],
        sample_rate,
        hop_samples,
        low_hz,
        high_hz,
        model="tiny",
        batch_size=512,
        return_periodicity=True,
    )
    times_s = np.arange(f0_hz.shape[1]) * hop_samples / sample_rate
    f0_hz, voiced = f0_hz[0].numpy().astype(np.float64), periodicity[0].numpy() > 0.5
    return times_s, np.where(voiced, f0_hz, -f0_hz)


def _run_basic_pitch(audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """The strongest of its many pitches, voiced where it stands above a half."""
    import tempfile

    import soundfile
    from basic_pitch.constants import ANNOTATIONS_FPS, CONTOURS_BINS_PER_SEMITONE
    from basic_pitch.inference import predict

    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        soundfile.write(file.name, audio, sample_rate)
        contour = predict(file.name)[0]["contour"]  # (frame, bin), from A0 (27.5 Hz) on
    f0_hz = 27.5 * 2 ** (contour.argmax(axis=1) / CONTOURS_BINS_PER_SEMITONE / 12)
    times_s = np.arange(len(f0_hz)) / ANNOTATIONS_FPS
    return times_s, np.where(contour.max(axis=1) > 0.5, f0_hz, -f0_hz)


BASELINES = {
    "melodia": Baseline("essentia", 44_100, _run_melodia),
    "pyin": Baseline("librosa", 22_050, _run_pyin),
    "crepe": Baseline("torchcrepe", 16_000, _run_crepe),
    "basic_pitch": Baseline("basic_pitch", 22_050, _run_basic_pitch),
}


def get_baseline(name: str) -> Baseline:
    """Return the adapter; ModuleNotFoundError with the command to install it when it is absent."""
    baseline = BASELINES[name]
    if find_spec(baseline.module) is None:
        raise ModuleNotFoundError(
            f"baseline {name} needs {baseline.module}: uv pip install {baseline.module}"
        )
    return baseline


@dataclass(frozen=True)
class System:
    """Something that gives a melody for a track at a voice level: times in s, signed Hz."""

    name: str
    estimate: Callable[[Track, float], tuple[np.ndarray, np.ndarray]]


def checkpoint_system(path: str | None, device: str) -> tuple[System, str]:
    """Load our model as a system; also the protocol that it was trained under ("" unknown)."""
    # Imported here, so that scoring files needs no PyTorch.
    from checkpoint import load_checkpoint, resolve_device
    from decoding import extract_melody

    checkpoint_path = Path(path) if path else newest_network(train_config.models_dir)
    loaded = load_checkpoint(checkpoint_path, resolve_device(device))

    def estimate(track: Track, voice_gain_db: float) -> tuple[np.ndarray, np.ndarray]:
        audio = read_audio(track, loaded.features.sample_rate, voice_gain_db)
        melody = extract_melody(audio, loaded)
        return melody.times_s, melody.signed_hz

    trained_under = loaded.info.get("protocol", "")
    trained_under = trained_under if trained_under in PROTOCOLS else ""
    return System(checkpoint_path.stem, estimate), trained_under


def baseline_system(name: str) -> System:
    """Wrap an installed system."""
    baseline = get_baseline(name)

    def estimate(track: Track, voice_gain_db: float) -> tuple[np.ndarray, np.ndarray]:
        audio = read_audio(track, baseline.sample_rate, voice_gain_db)
        return baseline.run(audio, baseline.sample_rate)

    return System(name, estimate)


def files_system(folder: Path) -> System:
    """Wrap a folder of output files, DIR/<song>.csv|txt|pv|f0 or DIR/<data set>/<song>.*."""
    if not folder.is_dir():
        raise FileNotFoundError(f"--estimates {folder} is not a folder")

    def estimate(track: Track, voice_gain_db: float) -> tuple[np.ndarray, np.ndarray]:
        path = next((p for p in estimate_paths(folder, track) if p.exists()), None)
        if path is None:
            expected = estimate_paths(folder, track)[0]
            raise FileNotFoundError(f"no estimate: expected {expected} (or .txt, .pv, .f0)")
        return read_melody(path)

    return System(folder.name or str(folder), estimate)


def estimate_paths(folder: Path, track: Track) -> list[Path]:
    """Names under which the estimate of a track is looked for, in order."""
    song = track.song_id.split("/", 1)[1]
    names = dict.fromkeys((song, track.song_id, Path(song).name))
    return [folder / f"{name}{suffix}" for name in names for suffix in ANNOTATION_SUFFIXES]


def unknown_estimates(folder: Path, tracks: list[Track]) -> list[str]:
    """Files of a folder of estimates that belong to no track."""
    known = {path for track in tracks for path in estimate_paths(folder, track)}
    files = sorted(p for p in folder.rglob("*") if p.suffix in ANNOTATION_SUFFIXES)
    return [f"{p}: an estimate for a song that does not exist" for p in files if p not in known]


# VR, VFA, RPA, RCA, OA in percent, as their papers (RMVPE: a third party) give them.
_MORE_DATA = "trained on all of MIR-1K and 35 MedleyDB songs; pools frames, scores padding"
_ON_TEST = _MORE_DATA + "; epoch chosen on each test set"
PUBLISHED_MEASURES = ("VR", "VFA", "RPA", "RCA", "OA")
PUBLISHED = {
    "adc2004/vocal12": (
        ("Melodia", (81.5, 12.1, 77.8, 80.8, 73.9), "nothing trained"),
        ("DeepSalience", (89.2, 51.3, 75.4, 77.6, 69.8), "trained on MedleyDB"),
        ("SegNet / MSNet", (91.1, 19.2, 84.6, 86.2, 83.7), "trained on MedleyDB; song mean"),
        ("FTANet", (83.2, 13.3, 76.3, 76.5, 77.4), _MORE_DATA.replace("pools frames", "song mean")),
        ("TONet", (91.8, 17.1, 82.6, 82.9, 82.6), _ON_TEST),
        ("MTANet", (91.5, 11.3, 86.5, 86.6, 86.9), _ON_TEST),
        ("KKNet / PianoNet", (90.5, 8.0, 85.8, 85.8, 86.9), _ON_TEST),
        ("MF-TFA + SD-MS", (89.9, 11.8, 86.9, 86.9, 87.1), _ON_TEST),
        ("RMVPE", (76.6, 11.1, 89.8, 91.2, 76.5), "run by a third party"),
    ),
    "mirex05/vocal9": (
        ("Melodia", (87.0, 22.8, 80.4, 81.7, 76.8), "nothing trained"),
        ("DeepSalience", (91.4, 45.3, 75.7, 77.0, 68.4), "trained on MedleyDB"),
        ("SegNet / MSNet", (84.9, 13.3, 75.4, 76.6, 79.5), "trained on MedleyDB; song mean"),
        ("FTANet", (83.9, 5.2, 77.8, 77.8, 84.4), _MORE_DATA.replace("pools frames", "song mean")),
        ("TONet", (91.6, 8.5, 83.8, 84.0, 86.6), _ON_TEST),
        ("MTANet", (91.8, 4.2, 85.5, 85.5, 89.2), _ON_TEST),
        ("KKNet / PianoNet", (92.8, 6.4, 87.6, 87.6, 89.8), _ON_TEST),
        ("MF-TFA + SD-MS", (91.6, 4.2, 87.4, 87.5, 89.9), _ON_TEST),
        ("RMVPE", (85.7, 5.4, 91.8, 92.0, 87.1), "run by a third party"),
    ),
}
