"""Reading audio files: any rate, any channel count, to float32 at the rate asked for.

soundfile (libsndfile) reads wav, flac, ogg and mp3; what it cannot (m4a, aac) goes through PyAV.
Both drop the encoder delay that the file states (LAME tag, edit list), so that time 0 is the first
sample of the sound that was encoded; a bare .aac states none and always has one frame of it. An
mp3 without the tag keeps its unknown delay, about 25 ms.
"""

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".aac", ".opus", ".aif", ".aiff")
BLOCK_FRAMES = 1 << 18  # decoded at once; bounds memory beside the result
REMEDY = "convert it with: ffmpeg -i FILE fixed.wav"


class AudioWarning(UserWarning):
    """An audio file is damaged but usable."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file claims."""

    sample_rate: int  # Hz
    n_channels: int
    duration_s: float


def audio_info(path: str | Path) -> AudioInfo:
    """Rate, channels and duration by the header; raises ValueError as `read_audio`."""
    path = _existing(path)
    import soundfile

    try:
        info = soundfile.info(path)
        return AudioInfo(info.samplerate, info.channels, info.duration)
    except soundfile.LibsndfileError:
        pass
    with _open_av(path) as container:
        stream = container.streams.audio[0]
        duration_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
        return AudioInfo(stream.rate, stream.channels, duration_s)


def read_audio(path: str | Path, sample_rate: int) -> np.ndarray:
    """Read a file and average its channels.

    Parameters
    ----------
    path : str or Path
        wav, flac, mp3, ogg, m4a, ... of any rate and channel count.
    sample_rate : int
        Hz, of the result.

    Returns
    -------
    np.ndarray [shape=(n_samples,), dtype=float32]
        At least one sample, all finite.

    Raises
    ------
    ValueError
        For a missing, empty or undecodable file, no samples, or NaN: what, where, what to do.
    """
    return _read(path, sample_rate, mono=True)[0]


def read_audio_channels(path: str | Path, sample_rate: int) -> np.ndarray:
    """Read as `read_audio`, with the channels apart: shape (n_channels, n_samples)."""
    return _read(path, sample_rate, mono=False)


class SpooledAudio:
    """A recording of any length as mono float32 in a temporary file; slices are read as asked for.

    Parameters and errors are those of `read_audio`, plus OSError when the disk of temporary files
    is full.
    """

    def __init__(self, path: str | Path, sample_rate: int) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # deleted with this object
        self._n_samples = 0
        for block in _sample_blocks(path, sample_rate, mono=True):
            self._file.write(np.ascontiguousarray(block, dtype=np.float32).tobytes())
            self._n_samples += len(block)

    def __len__(self) -> int:
        return self._n_samples

    def __getitem__(self, part: slice) -> np.ndarray:
        """Samples first:last, shape (last - first,)."""
        first, last, step = part.indices(len(self))
        self._file.seek(first * 4)
        return np.frombuffer(self._file.read(max(0, last - first) * 4), dtype=np.float32)[::step]


def to_mono(audio: np.ndarray, audio_rate: int, sample_rate: int) -> np.ndarray:
    """Turn audio in memory, (n_samples,) or two-dimensional, into mono float32 at `sample_rate`.

    The shorter of two axes is taken as the channels. Raises ValueError for no samples or NaN.
    """
    audio = np.asarray(audio, dtype=np.float32)
    if audio.ndim == 2:
        audio = audio.mean(axis=int(audio.shape[0] > audio.shape[1]))
    if audio.ndim != 1 or not audio.size:
        raise ValueError(
            f"audio of shape {audio.shape}; give (n_samples,) with at least one sample"
        )
    if audio_rate <= 0:
        raise ValueError(f"sample rate {audio_rate} Hz is not positive")
    _require_finite("audio", audio[:, None], 0, audio_rate)
    if audio_rate == sample_rate:
        return audio
    return _joined(_resample(iter([audio[:, None]]), audio_rate, sample_rate))[0]


def _read(path: str | Path, sample_rate: int, mono: bool) -> np.ndarray:
    """Shape (n_channels, n_samples), one channel if `mono`."""
    return _joined(_sample_blocks(path, sample_rate, mono))


def _sample_blocks(path: str | Path, sample_rate: int, mono: bool) -> Iterator[np.ndarray]:
    """Blocks (n, n_channels) at `sample_rate`; raises ValueError as `read_audio`."""
    path = _existing(path)
    blocks = _checked(path, *_decode(path), mono)
    first_block, file_rate = next(blocks, (None, 0))
    if first_block is None:
        raise ValueError(f"{path}: holds no sound (0 samples); record or export it again")

    def arrays() -> Iterator[np.ndarray]:
        yield first_block
        yield from (block for block, _ in blocks)

    yield from _resample(arrays(), file_rate, sample_rate)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file; check the name")
    if not path.is_file():
        raise ValueError(f"{path}: not a file; name an audio file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: empty file (0 bytes); copy or download it again")
    return path


def _decode(path: Path) -> tuple[Iterator[np.ndarray], int, float]:
    """Blocks (n, n_channels), the rate in Hz, and the seconds that the header promises."""
    import soundfile

    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return _decode_av(path)
    return _decode_soundfile(path, file), file.samplerate, file.frames / file.samplerate


def _decode_soundfile(path: Path, file: "soundfile.SoundFile") -> Iterator[np.ndarray]:  # noqa: F821
    import soundfile

    with file:
        while True:
            try:
                block = file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                warnings.warn(AudioWarning(f"{path}: damaged ({error})"), stacklevel=2)
                return
            if not len(block):
                return
            yield block


def _open_av(path: Path) -> "av.container.InputContainer":  # noqa: F821
    import av

    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, ValueError):
        raise ValueError(
            f"{path}: not audio that can be read (damaged, or another kind of file); {REMEDY}"
        ) from None
    if not container.streams.audio:
        container.close()
        raise ValueError(f"{path}: holds no sound track; name an audio file")
    return container


def _decode_av(path: Path) -> tuple[Iterator[np.ndarray], int, float]:
    with _open_av(path) as container:
        rate = container.streams.audio[0].rate
    return _av_blocks(path), rate, audio_info(path).duration_s


def _av_blocks(path: Path) -> Iterator[np.ndarray]:
    import av

    to_float = av.AudioResampler(format="fltp")  # the layout of samples only, not the rate
    with _open_av(path) as container:
        try:
            frames = container.decode(audio=0)
            if container.format.name == "aac":
                next(frames, None)
            for frame in frames:
                for part in to_float.resample(frame):
                    yield part.to_ndarray().T  # (channel, sample) -> (sample, channel)
        except av.error.FFmpegError as error:
            warnings.warn(AudioWarning(f"{path}: damaged ({error.strerror})"), stacklevel=2)


def _checked(
    path: Path, blocks: Iterator[np.ndarray], rate: int, promised_s: float, mono: bool
) -> Iterator[tuple[np.ndarray, int]]:
    """Pass on finite blocks with their rate; warn when there are fewer than promised."""
    n_samples = 0
    for block in blocks:
        _require_finite(str(path), block, n_samples, rate)
        n_samples += len(block)
        yield (block.mean(axis=1, keepdims=True) if mono else block), rate
    if n_samples and n_samples / rate < promised_s - 0.2:
        text = (
            f"{path}: stops after {n_samples / rate:.1f} s of {promised_s:.1f} s; using that part"
        )
        warnings.warn(AudioWarning(text), stacklevel=2)


def _require_finite(what: str, block: np.ndarray, first_sample: int, rate: int) -> None:
    bad = ~np.isfinite(block).all(axis=1)
    if bad.any():
        at_s = (first_sample + int(bad.argmax())) / rate
        raise ValueError(f"{what}: NaN or infinite sample at {at_s:.3f} s; export the audio again")


def _resample(blocks: Iterator[np.ndarray], from_rate: int, to_rate: int) -> Iterator[np.ndarray]:
    """Blocks (n, n_channels) at another rate, float32."""
    import soxr

    stream, n_channels = None, 1
    for block in blocks:
        n_channels = block.shape[1]
        if from_rate != to_rate:
            stream = stream or soxr.ResampleStream(from_rate, to_rate, n_channels, dtype="float32")
            block = stream.resample_chunk(np.ascontiguousarray(block))
        yield block
    if stream:
        yield stream.resample_chunk(np.zeros((0, n_channels), np.float32), last=True)


def _joined(blocks: Iterator[np.ndarray]) -> np.ndarray:
    """Blocks (n, n_channels) as one array, shape (n_channels, n_samples) float32."""
    joined, n_channels = bytearray(), 1  # a bytearray grows without a second copy
    for block in blocks:
        n_channels = block.shape[1]
        joined += block.tobytes()
    audio = np.frombuffer(joined, dtype=np.float32).reshape(-1, n_channels).T
    return np.ascontiguousarray(audio)
