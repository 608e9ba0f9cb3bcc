#!/usr/bin/env bash
# Music of free games, from the packages of Debian and Ubuntu, into datasets/instrumentals: real
# accompaniments of many styles that singers are laid over in training. Nothing is installed.
set -euo pipefail

PACKAGES="asc-music flare-game hyperrogue-music planetblupi-music-ogg singularity-music
unknown-horizons warzone2100-music wesnoth-1.16-music"

for tool in apt-get dpkg-deb; do
  if ! command -v $tool >/dev/null; then
    echo "get_instrumentals.sh needs $tool, of Debian and Ubuntu. Elsewhere put any recordings" \
      "without singing into datasets/instrumentals/" >&2
    exit 1
  fi
done
datasets_dir=${DATASETS_DIR:-$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/datasets}
mkdir -p "$datasets_dir/instrumentals"
work=$(mktemp -d "$datasets_dir/.instrumentals.XXXXXX")
trap 'rm -rf "$work"' EXIT
missing=""
for package in $PACKAGES; do
  target=$datasets_dir/instrumentals/$package
  if [ -d "$target" ]; then
    echo "$package: there, skipped"
    continue
  fi
  if ! (cd "$work" && apt-get download "$package"); then
    missing="$missing $package"
    continue
  fi
  dpkg-deb --extract "$work/$package"_*.deb "$work/unpacked"
  mkdir "$work/music"
  find "$work/unpacked" -ipath '*music/*' -size +500k \
    \( -name '*.ogg' -o -name '*.mp3' -o -name '*.opus' \) -exec mv -t "$work/music" {} +
  mv "$work/music" "$target"
  rm -rf "$work/unpacked" "$work/$package"_*.deb
  echo "$package: $(find "$target" -type f | wc -l) recordings"
done
if [ -n "$missing" ]; then
  echo "get_instrumentals.sh: not among this system's packages:$missing (apt-get update helps" \
    "where the list is old)" >&2
  exit 1
fi
