"""The extractor: which network to use, by which library, and the melody it finds.

    melody = MelodyExtractor().extract_file("song.mp3")
    melody.times, melody.frequency, melody.confidence, melody.voiced

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from config import inference_config, partner_path, train_config

if TYPE_CHECKING:
    import numpy as np

    from audio import SpooledAudio
    from melody_io import Melody

HERE = Path(__file__).parent
Progress = Callable[[float, float], None]  # (seconds done, seconds in all)


class MelodyExtractor:
    """A trained network, ready to be used on any number of recordings. Never prints.

    Parameters
    ----------
    checkpoint : str, Path or None
        A `.pt` file of this project; None takes the newest in `models/`.
    device : str
        "auto", "cpu" or "cuda".
    voicing_threshold : float or None
        0..1: higher marks fewer frames as melody; None takes the checkpoint's own, which falls
        in recordings whose lead is unlike those of training.
    fmin_hz, fmax_hz : float or None
        The range in which the melody is looked for.
    lead : str
        Who can have the melody: "any", singers and instruments; "voice", singers alone.
    hysteresis : float or None
        >= 0: higher gives fewer and longer stretches of melody; None takes the checkpoint's own.
    smoothing : bool
        False decides every frame by itself, without the Viterbi path.
    fine_pitch : bool
        False gives the centre of the semitone.
    backend : str
        "torch"; "onnx": onnxruntime with a file of `--export-onnx`; "auto": onnx where onnxruntime
        is installed and such a file of the same name lies beside the checkpoint, which starts
        and runs faster.

    Raises
    ------
    FileNotFoundError, ValueError
        For a missing or unusable checkpoint, or a setting out of range.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        device: str = "auto",
        voicing_threshold: float | None = None,
        fmin_hz: float | None = None,
        fmax_hz: float | None = None,
        hysteresis: float | None = None,
        smoothing: bool = True,
        fine_pitch: bool = True,
        backend: str = "auto",
        lead: str = "any",
    ) -> None:
        _require_settings(voicing_threshold, fmin_hz, fmax_hz, hysteresis)
        self._loaded = _load(find_network(checkpoint, device, backend), device)
        self._changes = {"lead": lead}  # of the network's own decoding
        if not smoothing:
            self._changes["viterbi"] = False
        if not fine_pitch:
            self._changes["refine"] = False
        if lead == "voice":  # music without a singer has no melody then
            self._changes |= {"least_melody_share": 0.0, "least_sung_share": 0.0}
        if hysteresis is not None:
            self._changes["switch_cost"] = hysteresis
        if voicing_threshold is not None:
            self._changes |= {"voicing_threshold": voicing_threshold, "least_melody_share": 0.0}
        replace(self._loaded.decoding, **self._changes)  # ValueError now, not at the first song
        self._range_hz = {"fmin_hz": fmin_hz, "fmax_hz": fmax_hz}

    @property
    def sample_rate(self) -> int:
        """The network's own rate in Hz; audio of other rates is resampled to it."""
        return self._loaded.features.sample_rate

    def extract(
        self, audio: np.ndarray, sample_rate: int, progress: Progress | None = None
    ) -> Melody:
        """Find the melody of audio in memory.

        `audio` has the shape (n_samples,), or two axes of which the shorter holds the channels;
        `sample_rate` is in Hz. Raises ValueError for no samples, NaN or infinite samples.
        """
        from audio import to_mono
        from decoding import extract_melody

        mono = to_mono(audio, sample_rate, self.sample_rate)
        return extract_melody(
            mono, self._loaded, changes=self._changes, progress=progress, **self._range_hz
        )

    def extract_file(self, path: str | Path, progress: Progress | None = None) -> Melody:
        """Find the melody of an audio file; ValueError says what is wrong with a bad one."""
        from audio import SpooledAudio

        return self.extract_spooled(SpooledAudio(path, self.sample_rate), progress)

    def extract_spooled(self, audio: SpooledAudio, progress: Progress | None = None) -> Melody:
        """Find the melody of an opened recording; memory hardly grows with its length."""
        from decoding import extract_melody

        return extract_melody(
            audio, self._loaded, changes=self._changes, progress=progress, **self._range_hz
        )

    def export_onnx(self, path: str | Path) -> None:
        """Write the network with its settings as ONNX, for `backend="onnx"`."""
        from onnx_model import export_onnx

        export_onnx(self._loaded, path)


def find_network(checkpoint: str | Path | None, device: str, backend: str) -> Path:
    """The file to load, `.onnx` or `.pt`: the one given or the newest; see `MelodyExtractor`."""
    given = checkpoint or inference_config.checkpoint
    models = HERE / train_config.models_dir
    suffix = ".onnx" if backend == "onnx" else ".pt"
    path = Path(given) if given else newest_network(models, suffix)
    if backend != "auto" and (path.suffix == ".onnx") != (backend == "onnx"):
        raise ValueError(f"{path} is no {suffix} file, which the backend {backend} runs")
    beside = path.with_suffix(".onnx")
    whole = partner_path(path).exists() == partner_path(beside).exists()
    on_cpu = device == "cpu" or (device == "auto" and not Path("/dev/nvidia0").exists())
    fast = backend == "auto" and on_cpu and beside.exists() and whole and find_spec("onnxruntime")
    return beside if fast else path


def _load(path: Path, device: str) -> object:
    """The network, ready to use."""
    if path.suffix == ".onnx":
        from onnx_model import load_onnx

        return load_onnx(path)
    from checkpoint import load_checkpoint, resolve_device

    return load_checkpoint(path, resolve_device(device))


def _require_settings(
    voicing_threshold: float | None,
    fmin_hz: float | None,
    fmax_hz: float | None,
    hysteresis: float | None,
) -> None:
    if hysteresis is not None and not 0 <= hysteresis < float("inf"):
        raise ValueError(f"hysteresis {hysteresis} is not 0 or more")
    if voicing_threshold is not None and not 0 <= voicing_threshold <= 1:
        raise ValueError(f"voicing threshold {voicing_threshold} is not between 0 and 1")
    for name, value_hz in (("fmin", fmin_hz), ("fmax", fmax_hz)):
        if value_hz is not None and not 0 < value_hz < float("inf"):
            raise ValueError(f"{name} {value_hz} Hz is not a positive frequency")
    if fmin_hz and fmax_hz and fmin_hz >= fmax_hz:
        raise ValueError(f"fmin {fmin_hz:g} Hz is not below fmax {fmax_hz:g} Hz")


def newest_network(models_dir: str | Path, suffix: str = ".pt") -> Path:
    """The melody_crnn_* file with the latest time in its name, ".pt" or ".onnx"."""
    found = Path(models_dir).glob(f"melody_crnn_*{suffix}")
    found = sorted(path for path in found if len(path.suffixes) == 1)  # not those of partners
    if not found:
        make = "uv run training.py" if suffix == ".pt" else "uv run inference.py --export-onnx FILE"
        raise FileNotFoundError(
            f"no melody_crnn_*{suffix} in {models_dir}: run `{make}`, or restore the shipped "
            "weights with `git checkout -- models`"
        )
    return found[-1]
