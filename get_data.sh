#!/usr/bin/env bash
# Download, verify and unpack the public data sets; `bash get_data.sh --help` says how.
# Written for bash 3.2 (macOS) and later. Needs curl and unzip.
set -uo pipefail

KNOWN_SETS="mir1k mirex05 adc2004 ssvd contours"
DEFAULT_SETS="mir1k mirex05 adc2004"
TRIES=${GET_DATA_TRIES:-5} # attempts at one address, each going on where the last one broke
accept_partial=no
unpack_dir="" # removed whenever the script ends, however it ends

usage() {
  cat <<'HELP'
usage: bash get_data.sh [--accept-partial] [NAME...]

Downloads data sets into datasets/ beside this script. Sets that are complete are skipped, a broken
download goes on where it stopped: run the same command again.

  NAME      folder                       replace its address by
  mir1k     datasets/MIR-1K              MIR1K_URL
  mirex05   datasets/mirex05TrainFiles   MIREX05_URL
  adc2004   datasets/adc2004_full_set    ADC2004_URL
  ssvd      datasets/SSVD-v2.0           SSVD_URL       (only when named)
  contours  datasets/melody_contours     CONTOURS_URL   (only when named)

Without a NAME: mir1k, mirex05 and adc2004.

  --accept-partial   do not download; take the folders that are there as they are
  DATASETS_DIR       environment: another folder than datasets/
  GET_DATA_TRIES     environment: attempts at one address (default 5)

Addresses may be http, https or file:  MIR1K_URL=file:///copies/MIR-1K.zip bash get_data.sh mir1k
HELP
}

say() { printf '%s\n' "$*"; }
complain() { printf '%s\n' "$*" >&2; }

# Set what is known about data set $1. The patterns match paths within its folder (./a/b.wav);
# `members` are what a partial set may lack: singers or songs, as file names begin.
describe() {
  member_files="" skip_files="" lift_files=no members=""
  case $1 in
  mir1k)
    url_name=MIR1K_URL url=${MIR1K_URL:-http://mirlab.org/dataset/public/MIR-1K.zip}
    folder=MIR-1K n_audio=1000 n_labels=1000
    audio_pattern='^\./Wavfile/[^/]+\.wav$' label_pattern='^\./PitchLabel/[^/]+\.pv$'
    layout='1000 Wavfile/*.wav and 1000 PitchLabel/*.pv'
    members="abjones amy Ani annar ariel bobon bug davidson fdps geniusturtle heycat jmzen Kenshin"
    members="$members khair leon stool tammy titon yifen"
    ;;
  mirex05)
    url_name=MIREX05_URL
    url=${MIREX05_URL:-https://labrosa.ee.columbia.edu/projects/melody/mirex05TrainFiles.zip}
    folder=mirex05TrainFiles n_audio=13 n_labels=13 lift_files=yes
    audio_pattern='/[^/]+\.wav$' label_pattern='REF\.txt$' layout='13 *.wav and 13 *REF.txt'
    members="train01 train02 train03 train04 train05 train06 train07 train08 train09 train10"
    members="$members train11 train12 train13"
    ;;
  adc2004)
    url_name=ADC2004_URL
    url=${ADC2004_URL:-https://labrosa.ee.columbia.edu/projects/melody/adc2004_full_set.zip}
    folder=adc2004_full_set n_audio=20 n_labels=20 lift_files=yes
    audio_pattern='/[^/]+\.wav$' label_pattern='REF\.txt$' layout='20 *.wav and 20 *REF.txt'
    members="daisy1 daisy2 daisy3 daisy4 jazz1 jazz2 jazz3 jazz4 midi1 midi2 midi3 midi4"
    members="$members opera_fem2 opera_fem4 opera_male3 opera_male5 pop1 pop2 pop3 pop4"
    ;;
  ssvd)
    url_name=SSVD_URL
    url=${SSVD_URL:-https://github.com/xk-wang/SSVD-v2.0/archive/refs/heads/main.zip}
    folder=SSVD-v2.0 n_audio=194 n_labels=194 skip_files='*/images/*'
    audio_pattern='\.(flac|wav|ogg)$' label_pattern='/[0-9]+\.txt$'
    layout='194 recordings (*.flac) with a *.txt of the same name beside each'
    ;;
  contours)
    url_name=CONTOURS_URL
    url=${CONTOURS_URL:-https://github.com/marl/medleydb/archive/refs/heads/master.zip}
    folder=melody_contours n_audio=0 n_labels=108
    member_files='*medleydb/data/Annotations/Melody/Melody2/*.csv'
    audio_pattern='^$' label_pattern='_MELODY2\.csv$' layout='108 *_MELODY2.csv'
    ;;
  *) return 1 ;;
  esac
  target=$datasets_dir/$folder
  archive=$datasets_dir/$folder.zip.part
}

# Files below folder $1 whose path matches pattern $2.
matching() { (cd "$1" 2>/dev/null && find . -type f | grep -E "$2"); }
count() { matching "$1" "$2" | grep -c ''; }
counts() {
  say "$(count "$1" "$audio_pattern") recordings, $(count "$1" "$label_pattern") annotations"
}

is_whole() {
  [ "$(count "$1" "$audio_pattern")" -ge "$n_audio" ] &&
    [ "$(count "$1" "$label_pattern")" -ge "$n_labels" ]
}

# A partial set is done when its marker says that this is all there was to get.
is_done() {
  [ -d "$target" ] || return 1
  is_whole "$target" && return 0
  [ -f "$target/.complete" ] && [ "$(cat "$target/.complete")" = "$(counts "$target")" ]
}

# A wrong archive holds nothing of the set; a partial one holds some of each kind.
has_some() {
  [ "$(count "$1" "$label_pattern")" -gt 0 ] &&
    { [ "$n_audio" -eq 0 ] || [ "$(count "$1" "$audio_pattern")" -gt 0 ]; }
}

# Names of the pairs of folder $1, less what the sets append to them.
stems() {
  matching "$1" "$2" | sed -e 's|.*/||' -e 's/\.[^.]*$//' -e 's/REF$//' -e 's/MIDI$//' | sort
}

warn_partial() {
  local name=$1 dir=$2 member present absent="" unpaired
  present=$(stems "$dir" "$audio_pattern")
  for member in $members; do
    # Not grep -q, whose early end would fail the pipe.
    printf '%s\n' "$present" | grep -E "^$member(_|\$)" >/dev/null || absent="$absent $member"
  done
  complain "$name: WARNING: a partial set, $(counts "$dir") of $n_audio and $n_labels."
  [ -z "$absent" ] || complain "  nothing of:$absent"
  [ "$n_audio" -gt 0 ] || return 0
  unpaired=$(comm -3 <(stems "$dir" "$audio_pattern") <(stems "$dir" "$label_pattern"))
  [ -z "$unpaired" ] || complain "  recording or annotation alone:" \
    "$(printf '%s\n' "$unpaired" | tr -d '\t' | head -n 20 | tr '\n' ' ')"
}

advise() {
  local name=$1
  complain "  What to do:"
  complain "  - run 'bash get_data.sh $name' again later; what has arrived is kept and used"
  complain "  - or take it from a mirror or a copy:" \
    "$url_name=https://mirror.example/$folder.zip bash get_data.sh $name  (file:///... works)"
  complain "  - or put the unpacked set there by hand: $target/ with $layout"
}

file_size() { if [ -f "$1" ]; then wc -c <"$1" | tr -d ' '; else say 0; fi; }

# A warning (1) still means that every file's checksum is right.
is_archive() {
  [ -s "$1" ] || return 1
  unzip -tq "$1" >/dev/null 2>&1 </dev/null
  [ $? -le 1 ]
}

# One transfer; goes on at the end of $archive. Sets curl_status and http_code.
transfer() {
  local progress=(--silent --show-error)
  [ ! -t 2 ] || progress=(--progress-bar)
  http_code=$(curl "${progress[@]}" --fail --location --continue-at - --connect-timeout 20 \
    --speed-limit 1000 --speed-time 30 --write-out '%{http_code}' --output "$archive" "$url")
  curl_status=$?
}

# Fill $archive. Our own loop, not curl --retry: that throws away what a broken attempt brought.
download() {
  local name=$1 attempt had
  for ((attempt = 1; attempt <= TRIES; attempt++)); do
    had=$(file_size "$archive")
    [ "$had" -eq 0 ] || say "$name: going on after $had bytes"
    transfer
    case $curl_status/$http_code in
    33/* | 36/* | */416) # ranges refused, or not of this file (curl calls 416 a success)
      [ "$had" -gt 0 ] || return 1
      say "$name: $url does not let the download go on; starting anew"
      rm -f "$archive"
      continue
      ;;
    0/*) return 0 ;;
    23/*) complain "$name: cannot write $archive: is the disk full? (df -h)" && return 1 ;;
    22/408 | 22/429) ;;
    22/4* | 1/* | 3/* | 37/* | 60/*) return 1 ;; # another attempt would end the same way
    esac
    [ "$attempt" -eq "$TRIES" ] || sleep "$attempt"
  done
  return 1
}

# The archive, whole and verified, in $archive.
fetch() {
  local name=$1
  is_archive "$archive" && return 0 # whole, but the last run could not unpack it
  say "$name: downloading $url"
  if ! download "$name"; then
    complain "$name: FAILED: could not download $url"
    return 1
  fi
  is_archive "$archive" && return 0
  complain "$name: FAILED: what came from $url ($(file_size "$archive") bytes) is no whole zip" \
    "archive: truncated or damaged. It has been removed; the next run starts anew."
  rm -f "$archive"
  return 1
}

remove_unpacked() { [ -z "$unpack_dir" ] || rm -rf "$unpack_dir"; }

# Unpack $archive to $unpack_dir, without what macOS adds to archives.
unpack() {
  local name=$1 output status wanted=()
  [ -z "$member_files" ] || wanted=("$member_files")
  unpack_dir=$datasets_dir/.$folder.unpacking
  rm -rf "$unpack_dir"
  # "n": unzip asks whether to go on when the disk is full. ${a[@]+...}: bash 3.2 and empty arrays.
  output=$(unzip -q -o "$archive" ${wanted[@]+"${wanted[@]}"} -x '__MACOSX/*' '._*' \
    '*/._*' '*.DS_Store' ${skip_files:+"$skip_files"} -d "$unpack_dir" 2>&1 <<<n)
  status=$?
  [ $status -gt 1 ] || return 0
  if [ $status -eq 11 ]; then # no file of the wanted names
    mkdir -p "$unpack_dir"
    return 0
  fi
  complain "$name: FAILED: unzip error $status while unpacking in $datasets_dir:" \
    "is the disk full? (df -h)"
  printf '%s\n' "$output" | grep -v 'excluded filename not matched' | tail -n 3 >&2
  complain "  Nothing half-unpacked is left, the archive is kept: make room and run again."
  return 1
}

# The folder within $unpack_dir that holds the files: archives wrap them in one or more.
inner_folder() {
  local dir=$unpack_dir entries
  while :; do
    entries=("$dir"/*)
    [ ${#entries[@]} -eq 1 ] && [ -d "${entries[0]}" ] || break
    [ "${entries[0]##*/}" != Wavfile ] || break
    dir=${entries[0]}
  done
  say "$dir"
}

# Recordings and annotations from folders below $1 to $1 itself.
lift() {
  local path
  matching "$1" "$audio_pattern|$label_pattern" | grep '/.*/' | while IFS= read -r path; do
    mv -n "$1/$path" "$1/"
  done
}

# Rename the checked folder $2 to its place; what was there stays beside it.
put_in_place() {
  local name=$1 dir=$2 old=$target.old i=2
  counts "$dir" >"$dir/.complete" || return 1
  if [ -e "$target" ] && ! rmdir "$target" 2>/dev/null; then
    while [ -e "$old" ]; do old=$target.old$((i++)); done
    mv "$target" "$old" || return 1
    complain "$name: the incomplete folder that was there is now $old"
  fi
  mv "$dir" "$target"
}

install_archive() {
  local name=$1 dir
  unpack "$name" || return 1
  dir=$(inner_folder)
  [ $lift_files = no ] || lift "$dir"
  if ! has_some "$dir"; then
    complain "$name: FAILED: the archive from $url is not this set ($layout)." \
      "It has been removed."
    rm -f "$archive"
    return 1
  fi
  is_whole "$dir" || warn_partial "$name" "$dir"
  if ! put_in_place "$name" "$dir"; then
    complain "$name: FAILED: cannot write $target: is the disk full? (df -h)"
    return 1
  fi
  rm -f "$archive"
}

accept() {
  local name=$1
  if ! has_some "$target"; then
    complain "$name: FAILED: nothing to accept in $target/; expected $layout"
    return 1
  fi
  counts "$target" >"$target/.complete" || return 1
  is_whole "$target" || warn_partial "$name" "$target"
  say "$name: accepted as it is: $target ($(counts "$target"))"
}

get_set() {
  local name=$1
  describe "$name"
  if is_done; then
    say "$name: complete, skipped: $target ($(counts "$target"))"
    is_whole "$target" || warn_partial "$name" "$target"
    return 0
  fi
  if [ $accept_partial = yes ]; then
    accept "$name"
    return
  fi
  if ! { fetch "$name" && install_archive "$name"; }; then
    remove_unpacked
    advise "$name"
    return 1
  fi
  remove_unpacked
  say "$name: done: $target ($(counts "$target"))"
}

check_tools() {
  local tool
  for tool in curl unzip; do
    if ! command -v $tool >/dev/null; then
      complain "get_data.sh needs $tool; install it (for instance: apt-get install $tool)"
      exit 1
    fi
  done
}

parse_args() {
  local arg
  names=""
  for arg in "$@"; do
    case $arg in
    -h | --help) usage && exit 0 ;;
    --accept-partial) accept_partial=yes ;;
    *)
      case " $KNOWN_SETS " in
      *" $arg "*) names="$names $arg" ;;
      *)
        complain "get_data.sh: unknown data set '$arg'; known are: $KNOWN_SETS (see --help)"
        exit 2
        ;;
      esac
      ;;
    esac
  done
  names=${names:-$DEFAULT_SETS}
}

main() {
  local name script_dir failed=""
  parse_args "$@"
  check_tools
  script_dir=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
  datasets_dir=${DATASETS_DIR:-$script_dir/datasets}
  if ! mkdir -p "$datasets_dir" || [ ! -w "$datasets_dir" ]; then
    complain "get_data.sh: cannot write to $datasets_dir; choose another folder by DATASETS_DIR"
    exit 1
  fi
  datasets_dir=$(CDPATH='' cd -- "$datasets_dir" && pwd)
  trap remove_unpacked EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  for name in $names; do
    get_set "$name" || failed="$failed $name"
  done
  if [ -n "$failed" ]; then
    complain "get_data.sh: not complete:$failed (the reasons are above)"
    exit 1
  fi
}

main "$@"
