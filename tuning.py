"""Choose the decoding settings of a checkpoint on validation recordings, and store them in it.

    uv run tuning.py models/melody_crnn_<time>.pt

The mean over data sets of the song-mean overall accuracy decides; one setting is moved at a time.
MIR-1K's validation singers with the voice at -5, 0 and +5 dB, the synthetic corpus's validation
songs (instruments among their leads), songs and scores played by sampled instruments (with the
soundfont group) and, where `datasets/open_stems` is at hand, that set. Where the checkpoint has a
partner, the settings for recordings without a singer are chosen, and
stored in the partner; those of the network itself stay.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import checkpoint
import config
import corpora
import decoding
import metrics
import synthesis
from config import DecodingConfig
from melody_io import atomic_path

GRID = {
    "played_odds": (2.0, 4.0, 8.0, 16.0, 32.0),
    "voicing_threshold": (0.3, 0.4, 0.6, 0.7),
    "least_melody_share": (0.0, 0.3, 0.4, 0.6),
    "lowest_threshold": (0.02, 0.1, 0.2),
    "switch_cost": (2.0, 8.0, 16.0),
    "factored_weight": (0.0, 0.5),
    "semitone_cost": (0.5, 2.0),
    "max_jump_cost": (6.0, 14.0),
}
N_RENDERED_SONGS = 20  # of each set of sampled instruments
RENDERED_SEED = 9000  # far from those of the training songs
LEVELS_DB = (-5.0, 0.0, 5.0)  # MIR-1K's voice against its accompaniment, as MIREX09


def find_sets(datasets_dir: str, n_songs: int) -> dict[str, list[tuple[corpora.Track, float]]]:
    """Validation recordings with their voice gains in dB, by name of the set."""
    voices = spread(corpora.find_tracks("mir1k", datasets_dir, "val"), n_songs)
    sets = {f"mir1k {gain_db:+g} dB": [(t, gain_db) for t in voices] for gain_db in LEVELS_DB}
    folder = corpora.dataset_folder("synthetic", datasets_dir)
    synthesis.write_corpus("val", folder, config.synthesis_config)
    others = {"synthetic": corpora.find_tracks("synthetic", datasets_dir, "val")}
    bands = Path(datasets_dir) / "open_stems"
    if bands.is_dir():
        others["open_stems"] = corpora.find_tracks(str(bands), datasets_dir)
    if all(map(find_spec, ("tinysoundfont", "pretty_midi"))):
        others["instruments"] = rendered("instruments_val", datasets_dir, instrument_song)
        if find_spec("music21"):
            render = partial(score_song, datasets_dir=datasets_dir)
            others["scores"] = rendered("scores_val", datasets_dir, render)
    return sets | {name: [(t, 0.0) for t in spread(ts, n_songs)] for name, ts in others.items()}


def rendered(
    name: str, datasets_dir: str, render: Callable[[int], synthesis.Song]
) -> list[corpora.Track]:
    """The songs that `render` makes of 0, 1, ..., written where they are not there yet."""
    folder = corpora.dataset_folder(name, datasets_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(N_RENDERED_SONGS):
        if not (folder / f"{k:02d}.csv").exists():
            synthesis.write_song(render(k), folder)
    return corpora.find_tracks(name, datasets_dir)


def instrument_song(k: int) -> synthesis.Song:
    """A song of sampled instruments; in every other one an instrument accompanies itself."""
    import soundfonts

    seed = RENDERED_SEED + k // 2
    return soundfonts.render_song(seed, None, song_id=f"{k:02d}", one_player=k % 2 == 0)


def score_song(k: int, datasets_dir: str) -> synthesis.Song:
    """An excerpt of a composition that no training song is taken from."""
    import scores

    piece, kind = list(scores.VAL_PIECES.items())[k % len(scores.VAL_PIECES)]
    score = scores.read_score(piece, datasets_dir)
    return scores.render_score(RENDERED_SEED + k, score, kind, song_id=f"{k:02d}")


def spread(tracks: list, n_songs: int) -> list:
    """At most `n_songs` of them, evenly spread."""
    return tracks[:: max(1, len(tracks) // n_songs)][:n_songs]


def load_songs(loaded: checkpoint.LoadedModel, datasets_dir: str, n_songs: int) -> dict[str, list]:
    """(posteriors, which of `networks` they are of, annotation) of each recording, by data set."""
    songs = {}
    for name, items in find_sets(datasets_dir, n_songs).items():
        songs[name] = []
        for track, gain_db in tqdm(items, desc=name, leave=False):
            audio = corpora.read_audio(track, loaded.features.sample_rate, gain_db)
            posteriors, network = decoding.hear(audio, loaded)
            songs[name].append(
                (posteriors, int(network is not loaded), corpora.read_annotation(track))
            )
    return songs


def networks(loaded: checkpoint.LoadedModel) -> list[checkpoint.LoadedModel]:
    """The network and, where it has one, its partner."""
    return [loaded, loaded.partner] if loaded.partner else [loaded]


def score(
    songs: dict[str, list],
    loaded: checkpoint.LoadedModel,
    settings: list[DecodingConfig],
    known: dict | None = None,
) -> dict[str, float]:
    """Song-mean OA of each set under the `settings` of each network, and their mean.

    What was scored before under the same settings is taken from `known`, and the rest added to it.
    """
    known = {} if known is None else known
    result = {}
    for name, items in songs.items():
        keys = [(name, n, settings[k]) for n, (_, k, _) in enumerate(items)]
        for key, (posteriors, k, (times_s, f0_hz, reliable)) in zip(keys, items, strict=True):
            if key not in known:
                melody = decoding.decode(posteriors, networks(loaded)[k], settings[k])
                estimate = (melody.times_s, melody.signed_hz)
                known[key] = metrics.score_song(times_s, f0_hz, *estimate, reliable)["OA"]
        result[name] = float(np.mean([known[key] for key in keys]))
    result["mean"] = float(np.mean(list(result.values())))
    return result


def tune(songs: dict[str, list], loaded: checkpoint.LoadedModel) -> list[DecodingConfig]:
    """Coordinate search over GRID, twice, since settings interact; prints every trial.

    Returns the settings of each of `networks`, of which the last's were chosen.
    """
    best = [network.decoding for network in networks(loaded)]
    known: dict = {}
    best_score = score(songs, loaded, best, known)
    print(f"as it stands: {describe(best_score)}")
    for name, values in 2 * tuple(GRID.items()):
        for value in values:
            trial = [*best[:-1], replace(best[-1], **{name: value})]
            if trial == best:
                continue
            trial_score = score(songs, loaded, trial, known)
            print(f"{name} = {value}: {describe(trial_score)}", flush=True)
            if trial_score["mean"] > best_score["mean"]:
                best, best_score = trial, trial_score
    print(f"chosen: {best[-1]}: {describe(best_score)}")
    return best


def describe(scores: dict[str, float]) -> str:
    """One line of accuracies in percent."""
    return ", ".join(f"{name} OA {100 * value:.2f}" for name, value in scores.items())


def store(path: str | Path, settings: DecodingConfig) -> None:
    """Rewrite the checkpoint with these decoding settings, all else unchanged."""
    content = checkpoint.read_checkpoint(path)
    content["decoding"] = config.to_plain(settings)
    with atomic_path(path) as part:
        torch.save(content, part)
    stale = Path(path).with_suffix(".onnx")
    if stale.exists():
        stale.unlink()
        print(
            f"{stale} held the old settings and is removed; write it again with "
            f"`uv run inference.py --checkpoint {path} --export-onnx {stale}`"
        )


def main() -> int:
    """Run the search; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="a .pt file of training.py; rewritten unless --dry-run")
    parser.add_argument("--datasets-dir", default=config.preproc_config.datasets_dir)
    parser.add_argument("--songs", type=int, default=40, help="of each set")
    parser.add_argument("--dry-run", action="store_true", help="print, but do not store")
    args = parser.parse_args()
    try:
        loaded = checkpoint.load_checkpoint(args.checkpoint)
        best = tune(load_songs(loaded, args.datasets_dir, args.songs), loaded)
    except (FileNotFoundError, ValueError) as error:
        print(f"tuning.py: {error}", file=sys.stderr)
        return 1
    if not args.dry_run:
        partner = config.partner_path(args.checkpoint)
        store(partner if loaded.partner else args.checkpoint, best[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
