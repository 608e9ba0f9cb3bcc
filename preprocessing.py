"""Stage 1: data sets to `processed_data/ah1_{train,val,test}_set.npz` (schema: dataset.py)."""

import argparse
import errno
import json
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

import config
import corpora
import dataset
import features
import labels
import synthesis
from config import FeatureConfig, PreprocConfig
from pools import open_pool
from varied_voices import vary_voice

MARGIN_BINS = 10  # +-2 semitones of bins beside the wide transform's 365
# Songs of sampled instruments; in the last to a contour an instrument accompanies itself.
SONGS_PER_CONTOUR = 3
FLUID_SEED = 5000  # where the seeds of the second sound font's songs start
EXCERPTS_PER_SCORE = 6


def transform_wide(audio: np.ndarray, settings: FeatureConfig) -> np.ndarray:
    """Level-normalised complex CQT with the margin for shifts, (bin + 2 * margin, frame)."""
    return features.complex_cqt(features.normalise_level(audio, settings), settings, MARGIN_BINS)


def shifted_cqts(audio: np.ndarray, semitones: tuple, prep: PreprocConfig) -> Iterator[np.ndarray]:
    """Log-CQT (bin, frame) of `audio` shifted by each of `semitones`."""
    settings = config.feature_config
    if prep.shift_method == "audio":
        import librosa

        for shift in semitones:
            rate = settings.sample_rate
            moved = librosa.effects.pitch_shift(audio, sr=rate, n_steps=shift) if shift else audio
            moved = features.normalise_level(moved, settings)
            yield features.log_magnitude(features.complex_cqt(moved, settings), settings)
        return
    wide = features.log_magnitude(transform_wide(audio, settings), settings)
    for shift in semitones:
        low = MARGIN_BINS - shift * settings.bins_per_semitone
        yield wide[low : low + settings.n_bins]


def frame_labels(track: corpora.Track, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """f0_hz (0 unvoiced) and validity of each frame, from the nearest annotation."""
    times_s, f0_hz, reliable = corpora.read_annotation(track)
    grid_s = labels.frame_times_s(n_frames, config.feature_config)
    nearest_hz = labels.nearest_on_grid(times_s, f0_hz, grid_s)
    return nearest_hz, labels.nearest_on_grid(times_s, reliable, grid_s).astype(bool)


def track_windows(track: corpora.Track, training: bool, prep: PreprocConfig) -> list[dict]:
    """All rows of one recording: pitch shifts (training only) x windows."""
    gains_db = prep.voice_gains_db if training and corpora.has_stems(track) else (0.0,)
    semitones = prep.pitch_shifts if training else (0,)
    rows = []
    for gain_db in gains_db:
        audio = corpora.read_audio(track, config.feature_config.sample_rate, gain_db)
        tag = f"@{gain_db:+g}dB" if gain_db else ""
        for shift, log_cqt in zip(semitones, shifted_cqts(audio, semitones, prep), strict=True):
            f0_hz, valid = frame_labels(track, log_cqt.shape[1])
            f0_hz = f0_hz * 2 ** (shift / 12)
            song_id = f"{track.song_id}{tag}{shift:+d}"
            rows += window_rows(log_cqt, f0_hz, valid, song_id, corpora.lead_kind(track), prep)
    return rows


def window_rows(
    log_cqt: np.ndarray,
    f0_hz: np.ndarray,
    valid: np.ndarray,
    song_id: str,
    lead_kind: int,
    prep: PreprocConfig,
) -> list[dict]:
    """Rows of the .npz for one (bin, frame) log-CQT; `X` is not normalised yet."""
    frames = prep.window_frames
    cut = (dataset.cut_windows(a, frames) for a in (log_cqt, f0_hz, valid))
    rows = []
    for k, (window, window_hz, window_valid) in enumerate(zip(*cut, strict=True)):
        targets = labels.frame_targets(window_hz)
        rows.append(
            {
                "X": window[None].astype(np.float16),
                **{key: targets[key].astype(np.uint8) for key in dataset.LABEL_KEYS[:4]},
                "y_pitch_hz": targets["y_pitch_hz"],
                "f0_hz": window_hz.astype(np.float32),
                "valid": window_valid,
                "song_ids": np.array(song_id, dtype="U200"),
                "start_frame": np.array(k * frames),
                "lead_kind": np.array(lead_kind, dtype=np.uint8),
            }
        )
    return rows


def parallel(function: partial, items: list, pool: Executor, title: str) -> Iterator:
    """Results of `function` over `items` in order, with a bounded number of them waiting."""
    rest = iter(items)
    waiting = [pool.submit(function, item) for item in islice(rest, 8)]
    with tqdm(total=len(items), desc=title, unit="song") as bar:
        while waiting:
            yield waiting.pop(0).result()
            bar.update()
            waiting += [pool.submit(function, item) for item in islice(rest, 1)]


def find_split(split: str, prep: PreprocConfig) -> list[corpora.Track]:
    """Recordings of a split under the protocol; says what is missing or unpaired."""
    tracks = []
    for name, part in config.PROTOCOLS[prep.protocol][split]:
        if name == "synthetic" and split == "train":
            write_synthetic(prep)
        found = corpora.find_tracks(name, prep.datasets_dir, part)
        tracks += found
        print(f"{split}: {len(found)} recordings of {name}")
    if not tracks:
        raise ValueError(
            f"protocol {prep.protocol}: no recording for the {split} split in {prep.datasets_dir}; "
            "fetch the whole sets with `bash get_data.sh`"
        )
    return tracks


def write_synthetic(prep: PreprocConfig) -> None:
    """Render the synthetic corpus where the protocol asks for it and it is not there."""
    folder = Path(prep.datasets_dir) / corpora.FOLDERS["synthetic"]
    for split in ("train", "val", "test"):
        synthesis.write_corpus(split, folder, config.synthesis_config)


def write_split(
    split: str,
    tracks: list[corpora.Track],
    prep: PreprocConfig,
    pool: Executor,
    stats: tuple | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Stream one split to disk; `stats` is None for training, which defines them."""
    settings = config.feature_config
    running = features.RunningStats(settings.n_bins)
    path = dataset.split_path(prep.output_dir, split)
    work = partial(track_windows, training=split == "train", prep=prep)
    with dataset.NpzWriter(path) as writer:
        for rows in parallel(work, tracks, pool, split):
            for row in rows:
                for key, value in row.items():
                    writer.add(key, value)
                if stats is None:
                    n_valid = int(np.flatnonzero(row["valid"]).max(initial=-1)) + 1
                    running.add(row["X"][0][:, :n_valid])
        mean, std = stats or running.mean_std()
        n_windows = writer.count("X")
        writer.close(
            transforms={"X": lambda x: features.normalise(x.astype(np.float32), mean, std)},
            norm_mean=mean,
            norm_std=std,
            schema_version=config.SCHEMA_VERSION,
            settings=describe(prep),
        )
    print(f"{path}: {n_windows} windows, {path.stat().st_size / 1e9:.2f} GB")
    return mean, std


def describe(prep: PreprocConfig) -> str:
    """The settings behind a file, as JSON."""
    plain = {"features": config.to_plain(config.feature_config), "preproc": config.to_plain(prep)}
    return json.dumps(plain)


def stem_rows(source: tuple, prep: PreprocConfig) -> dict:
    """Complex windows of the lead and the backing of one song (see dataset.StemMixer)."""
    settings = config.feature_config
    lead, backing, times_s, f0_hz, reliable, lead_kind = load_stems(source, prep)
    n_frames = labels.n_frames_of(len(lead), settings)
    grid_s = labels.frame_times_s(n_frames, settings)
    stems = {"lead": lead, "backing": backing if np.any(backing) else None}
    cut = partial(dataset.cut_windows, window_frames=prep.window_frames)
    rows = {
        kind: [] if audio is None else [as_halves(w) for w in cut(transform_wide(audio, settings))]
        for kind, audio in stems.items()
    }
    rows["f0_hz"] = cut(labels.nearest_on_grid(times_s, f0_hz, grid_s).astype(np.float32))
    rows["valid"] = cut(labels.nearest_on_grid(times_s, reliable, grid_s).astype(bool))
    rows["lead_kind"] = [np.array(lead_kind, dtype=np.uint8)] * len(rows["lead"])
    rows["backing_may_lead"] = [np.array(source[0] != "song")] * len(rows["backing"])
    return rows


def as_halves(window: np.ndarray) -> np.ndarray:
    """Complex (bin, frame) -> float16 (bin, frame, 2)."""
    return np.stack([window.real, window.imag], axis=-1).astype(np.float16)


def load_stems(source: tuple, prep: PreprocConfig) -> tuple:
    """(lead, backing, times_s, f0_hz, reliable, lead_kind) of a track or of a song to be rendered.

    Kinds of source: "track"; "varied", its voice alone as another singer's; "song". Real leads are
    dry: some get a room.
    """
    kind, item = source
    if kind == "song":
        song = item()
        reliable = np.ones(len(song.f0_hz), dtype=bool)
        return song.lead, song.backing, song.times_s, song.f0_hz, reliable, song.lead_kind
    rate = config.feature_config.sample_rate
    lead, backing = corpora.read_stems(item, rate)
    annotation = corpora.read_annotation(item)
    rng = np.random.default_rng(len(lead))
    if kind == "varied":
        lead, *annotation = vary_voice(lead, *annotation, rate, rng)
        backing = np.zeros_like(lead)
    if rng.random() < prep.room_share:
        lead = synthesis.apply_room(lead, rate, rng)
    return lead, backing, *annotation, corpora.lead_kind(item)


def soundfont_jobs(prep: PreprocConfig, fluid: bool) -> list[partial]:
    """Songs of sampled instruments on real melody contours."""
    contours = corpora.find_contours(prep.datasets_dir)
    seconds = config.synthesis_config.song_seconds
    one_player_from = len(contours) * (SONGS_PER_CONTOUR - 1)
    first_seed = FLUID_SEED if fluid else 0
    return [
        partial(soundfont_song, first_seed + k, path, seconds, k >= one_player_from, fluid)
        for k, path in enumerate(contours * SONGS_PER_CONTOUR)
    ]


def soundfont_song(
    seed: int, contour_path: Path, seconds: float, one_player: bool, fluid: bool
) -> synthesis.Song:
    """One of them; the optional packages are imported only here."""
    import soundfonts

    contour_hz = corpora.read_contour(contour_path, config.feature_config.hop_seconds)
    song_id = f"soundfont/{seed:04d}"
    return soundfonts.render_song(seed, contour_hz, seconds, song_id, one_player, fluid)


def score_jobs(prep: PreprocConfig) -> list[partial]:
    """Excerpts of the scores for training, the two sound fonts in turn."""
    import scores

    jobs = []
    for number, (piece, kind) in enumerate(tqdm(scores.TRAIN_PIECES.items(), desc="scores")):
        scores.read_score(piece, prep.datasets_dir)  # once, not by each excerpt's worker
        seeds = range(number * EXCERPTS_PER_SCORE, (number + 1) * EXCERPTS_PER_SCORE)
        jobs += [partial(score_song, seed, piece, kind, prep.datasets_dir) for seed in seeds]
    return jobs


def score_song(seed: int, piece: str, kind: str, datasets_dir: str) -> synthesis.Song:
    """One of them; the optional packages are imported only here."""
    import scores

    score = scores.read_score(piece, datasets_dir)
    seconds = config.synthesis_config.song_seconds
    song_id = f"scores/{seed:04d}"
    return scores.render_score(seed, score, kind, seconds, song_id, seed % 2 == 1, pauses=True)


def stem_sources(prep: PreprocConfig) -> list[tuple]:
    """What `preproc_config.stems` names, training parts only."""
    sources = []
    for name in prep.stems:
        if name == "synthetic":
            sources += [
                ("song", job) for job in synthesis.corpus_jobs("train", config.synthesis_config)
            ]
        elif name in ("soundfont", "fluid"):
            sources += [("song", job) for job in soundfont_jobs(prep, fluid=name == "fluid")]
        elif name == "scores":
            sources += [("song", job) for job in score_jobs(prep)]
        else:
            kind, _, dataset_name = name.rpartition(":")
            if kind not in ("", "varied"):
                raise ValueError(f"config.py: stems: {name!r} is neither a data set nor varied:SET")
            tracks = corpora.find_tracks(dataset_name, prep.datasets_dir, "train")
            sources += [(kind or "track", track) for track in tracks]
    return sources


def write_stems(prep: PreprocConfig, pool: Executor) -> None:
    """Stream the training stems to disk."""
    path = dataset.stems_path(prep.output_dir)
    n_backings = 0
    with dataset.NpzWriter(path) as writer:
        for rows in parallel(partial(stem_rows, prep=prep), stem_sources(prep), pool, "stems"):
            has_backing = bool(rows["backing"])
            for k in range(len(rows["lead"])):
                for key in ("lead", "f0_hz", "valid", "lead_kind"):
                    writer.add(key, rows[key][k])
                writer.add("backing_index", np.array(n_backings + k if has_backing else -1))
            for window, may_lead in zip(rows["backing"], rows["backing_may_lead"], strict=True):
                writer.add("backing", window)
                writer.add("backing_may_lead", may_lead)
            n_backings += len(rows["backing"])
        if not n_backings:
            raise ValueError(
                f"config.py: stems {prep.stems} have no accompaniment; add mir1k or synthetic"
            )
        writer.close(settings=describe(prep), schema_version=config.SCHEMA_VERSION)
    print(f"{path}: {path.stat().st_size / 1e9:.2f} GB")


def report_gaps(name: str, prep: PreprocConfig) -> None:
    """Print what a data set lacks, and files without their partner."""
    if line := corpora.missing_clips(name, corpora.find_tracks(name, prep.datasets_dir)):
        print(line)
    if unpaired := corpora.unpaired_files(name, prep.datasets_dir):
        more = f" and {len(unpaired) - 10} more" if len(unpaired) > 10 else ""
        print(f"{name}: left out, no partner file: {', '.join(unpaired[:10])}{more}")


def run(prep: PreprocConfig, scheduler: str = "") -> None:
    """Write the three splits and the training stems; `scheduler` is the address of Dask's."""
    tracks = {split: find_split(split, prep) for split in ("train", "val", "test")}
    parts = config.PROTOCOLS[prep.protocol].values()
    for name in sorted({name for part in parts for name, _ in part}):
        report_gaps(name, prep)
    with open_pool(prep.n_workers or None, scheduler) as pool:
        stats = None
        for split, group in tracks.items():
            stats = write_split(split, group, prep, pool, stats)
        if prep.stems and prep.protocol != "synthetic":
            write_stems(prep, pool)


def parse_args() -> argparse.Namespace:
    """Flags name paths and the experiment; everything else stays in config.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="default", choices=config.EXPERIMENTS)
    parser.add_argument("--protocol", choices=config.PROTOCOLS, help="override the experiment's")
    parser.add_argument("--datasets-dir", help="default: %(default)s", default=None)
    parser.add_argument("--output-dir", default=None)
    parser.add_argument("--scheduler", default="", help="address of a Dask cluster (see pools.py)")
    return parser.parse_args()


def main() -> int:
    """Run the stage; returns the exit status."""
    args = parse_args()
    given = {k: v for k, v in vars(args).items() if v and k not in ("experiment", "scheduler")}
    prep = replace(config.experiment(args.experiment)["preproc_config"], **given)
    try:
        run(prep, args.scheduler)
    except (FileNotFoundError, ImportError, ValueError) as error:
        hint = ""
        if isinstance(error, FileNotFoundError):
            hint = "\nNo data? `uv run preprocessing.py --protocol synthetic` needs none."
        print(f"preprocessing.py: {error}{hint}", file=sys.stderr)
        return 1
    except OSError as error:
        reason = f"cannot read or write ({error})"
        if error.errno == errno.ENOSPC:
            reason = "the disk is full; nothing half-written was kept. Free some space"
        print(
            f"preprocessing.py: {reason}, or choose another --output-dir than {prep.output_dir}.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
