"""get_data.sh against a server on localhost that breaks off, refuses ranges or lies."""

import io
import os
import re
import shutil
import subprocess
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "get_data.sh"
pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("bash", "curl", "unzip")),
    reason="needs bash, curl and unzip",
)


class Home(ThreadingHTTPServer):
    """Serves `files` {path: bytes}; the other attributes say how it misbehaves."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.ranges = True  # whether Range requests are honoured
        self.break_after = []  # bytes sent before the connection closes, one entry a request
        self.statuses = []  # HTTP errors to answer with first
        self.requests = []  # (path, Range header or None)

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        home, wanted = self.server, self.headers.get("Range")
        home.requests.append((self.path, wanted))
        if home.statuses or self.path not in home.files:
            return self.send_error(home.statuses.pop(0) if home.statuses else 404)
        body = home.files[self.path]
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and home.ranges else 0
        if start and start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        end = start + home.break_after.pop(0) if home.break_after else len(body)
        self.wfile.write(body[start:end])
        self.close_connection = True


@pytest.fixture
def home():
    server = Home()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def get_data(home, tmp_path):
    """Run the script with every address on localhost; further settings by keyword."""
    addresses = {
        f"{name.upper()}_URL": home.url(f"/{name}.zip")
        for name in ("mir1k", "mirex05", "adc2004", "ssvd", "contours")
    }
    no_proxy = {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}

    def run(*args, before="", **settings):
        env = os.environ | addresses | no_proxy | {"DATASETS_DIR": str(datasets(tmp_path))}
        return subprocess.run(
            ["bash", "-c", f'{before} exec bash "$0" "$@"', str(SCRIPT), *args],
            env=env | {"GET_DATA_TRIES": "1"} | settings,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def datasets(tmp_path):
    return tmp_path / "data sets"  # the space is a test, too


def archive(files):
    """A zip of {name: bytes}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(name, content)
    return buffer.getvalue()


def noise(seed, n_bytes=2000):
    """Bytes that do not compress, so that a cut archive is cut inside a recording."""
    return bytes((seed * 7919 + i * i * 31 + (i >> 3) * 17) % 251 for i in range(n_bytes))


def mirex05(prefix="mirex05TrainFiles/", songs=range(1, 14)):
    files = {}
    for i in songs:
        files[f"{prefix}train{i:02d}{'MIDI' if i == 13 else ''}.wav"] = noise(i)
        files[f"{prefix}train{i:02d}REF.txt"] = b"0.00\t0\n0.01\t220\n"
    return files


def leftovers(tmp_path):
    return sorted(p.name for p in datasets(tmp_path).iterdir())


def test_a_whole_set_is_fetched_once(get_data, home, tmp_path):
    junk = {"__MACOSX/": b"", "__MACOSX/._train01.wav": b"x", "mirex05TrainFiles/.DS_Store": b"x"}
    home.files["/mirex05.zip"] = archive(mirex05() | junk)
    first = get_data("mirex05")
    assert first.returncode == 0, first.stderr
    folder = datasets(tmp_path) / "mirex05TrainFiles"
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".complete"} == {
        name.split("/")[1]: content for name, content in mirex05().items()
    }
    assert leftovers(tmp_path) == ["mirex05TrainFiles"]
    second = get_data("mirex05")
    assert second.returncode == 0 and "skipped" in second.stdout
    assert len(home.requests) == 1


def test_second_run_goes_on_where_the_first_broke(get_data, home, tmp_path):
    whole = archive(mirex05())
    half = len(whole) // 2
    home.files["/mirex05.zip"], home.break_after = whole, [half]
    broken = get_data("mirex05")
    part = datasets(tmp_path) / "mirex05TrainFiles.zip.part"
    assert broken.returncode == 1
    assert part.read_bytes() == whole[:half]
    assert not (datasets(tmp_path) / "mirex05TrainFiles").exists()
    assert get_data("mirex05").returncode == 0
    assert [wanted for _, wanted in home.requests] == [None, f"bytes={half}-"]
    assert leftovers(tmp_path) == ["mirex05TrainFiles"]


def test_one_run_retries_from_where_it_broke(get_data, home):
    home.files["/mirex05.zip"], home.break_after = archive(mirex05()), [5000]
    assert get_data("mirex05", GET_DATA_TRIES="2").returncode == 0
    assert [wanted for _, wanted in home.requests] == [None, "bytes=5000-"]


def test_a_server_without_ranges_starts_anew(get_data, home):
    home.files["/mirex05.zip"], home.break_after = archive(mirex05()), [5000]
    assert get_data("mirex05").returncode == 1
    home.ranges = False
    result = get_data("mirex05", GET_DATA_TRIES="2")
    assert result.returncode == 0 and "starting anew" in result.stdout
    assert [wanted for _, wanted in home.requests] == [None, "bytes=5000-", None]


def test_a_part_longer_than_the_file_starts_anew(get_data, home, tmp_path):
    home.files["/mirex05.zip"] = archive(mirex05())
    datasets(tmp_path).mkdir()
    part = datasets(tmp_path) / "mirex05TrainFiles.zip.part"
    part.write_bytes(b"of another mirror" * 10_000)
    assert get_data("mirex05", GET_DATA_TRIES="2").returncode == 0
    assert home.requests[-1][1] is None


def test_a_truncated_archive_is_removed(get_data, home, tmp_path):
    whole = archive(mirex05())
    home.files["/mirex05.zip"] = whole[:-300]
    result = get_data("mirex05")
    assert result.returncode == 1
    assert "truncated or damaged" in result.stderr and "removed" in result.stderr
    assert leftovers(tmp_path) == []
    home.files["/mirex05.zip"] = whole
    assert get_data("mirex05").returncode == 0
    assert home.requests[-1][1] is None


def test_a_damaged_byte_is_noticed(get_data, home, tmp_path):
    damaged = bytearray(archive(mirex05()))
    damaged[len(damaged) // 3] ^= 0xFF
    home.files["/mirex05.zip"] = bytes(damaged)
    assert get_data("mirex05").returncode == 1
    assert leftovers(tmp_path) == []


def test_busy_server_is_asked_again_but_not_for_what_it_lacks(get_data, home):
    home.files["/mirex05.zip"], home.statuses = archive(mirex05()), [503]
    assert get_data("mirex05", GET_DATA_TRIES="3").returncode == 0
    assert len(home.requests) == 2
    assert get_data("adc2004", GET_DATA_TRIES="3").returncode == 1
    assert len(home.requests) == 3


def test_home_down_says_what_to_do_and_tries_the_others(get_data, home, tmp_path):
    home.files["/mirex05.zip"] = archive(mirex05())
    result = get_data(MIR1K_URL="http://127.0.0.1:9/MIR-1K.zip")
    assert result.returncode == 1
    assert [path for path, _ in home.requests] == ["/mirex05.zip", "/adc2004.zip"]
    assert leftovers(tmp_path) == ["mirex05TrainFiles"]
    for hint in (
        "MIR1K_URL=",
        f"{datasets(tmp_path)}/MIR-1K/ with 1000 Wavfile/*.wav",
        "ADC2004_URL=",
    ):
        assert hint in result.stderr
    assert (
        result.stderr.rstrip()
        .splitlines()[-1]
        .startswith("get_data.sh: not complete: mir1k adc2004")
    )


def mir1k(clips):
    files = {"MIR-1K/UndividedWavfile/amy_1.wav": b"no clip"}
    for clip in clips:
        files[f"MIR-1K/Wavfile/{clip}.wav"] = b"RIFF"
        files[f"MIR-1K/PitchLabel/{clip}.pv"] = b"0\n57.1\n"
    return files


def test_a_partial_set_is_kept_and_says_what_it_lacks(get_data, home, tmp_path):
    # More names than a pipe holds: a reader that ends early must not look like an absent singer.
    files = mir1k([f"amy_{'1' * 90}_{i:02d}" for i in range(1, 900)] + ["leon_3_01"])
    del files["MIR-1K/PitchLabel/leon_3_01.pv"]
    home.files["/mir1k.zip"] = archive(files)
    first = get_data("mir1k")
    assert first.returncode == 0
    assert "900 recordings, 899 annotations of 1000 and 1000" in first.stderr
    absent = re.search("nothing of: (.*)", first.stderr)[1].split()
    assert len(absent) == 17 and not {"amy", "leon"} & set(absent)
    assert "alone: leon_3_01" in first.stderr
    second = get_data("mir1k")
    assert second.returncode == 0 and "skipped" in second.stdout and "partial" in second.stderr
    assert len(home.requests) == 1
    (datasets(tmp_path) / "MIR-1K/Wavfile/leon_3_01.wav").unlink()
    assert get_data("mir1k").returncode == 0
    assert len(home.requests) == 2
    assert (datasets(tmp_path) / "MIR-1K/Wavfile/leon_3_01.wav").exists()
    assert leftovers(tmp_path) == ["MIR-1K", "MIR-1K.old"]


def test_a_folder_put_there_by_hand_is_not_lost(get_data, home, tmp_path):
    by_hand = datasets(tmp_path) / "MIR-1K/Wavfile/mine.wav"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(b"mine")
    assert get_data("mir1k").returncode == 1  # home down: stays as it is
    assert by_hand.exists()
    assert get_data("--accept-partial", "mir1k").returncode == 1  # no annotation: nothing to use
    (datasets(tmp_path) / "MIR-1K/PitchLabel").mkdir()
    (datasets(tmp_path) / "MIR-1K/PitchLabel/mine.pv").write_bytes(b"0\n")
    assert get_data("--accept-partial", "mir1k").returncode == 0
    n_requests = len(home.requests)
    assert "skipped" in get_data("mir1k").stdout
    assert len(home.requests) == n_requests


ADC2004 = [f"{kind}{i}" for kind in ("daisy", "jazz", "midi", "pop") for i in range(1, 5)]
ADC2004 += ["opera_fem2", "opera_fem4", "opera_male3", "opera_male5"]


@pytest.mark.parametrize("prefixes", [("", ""), ("top/", "top/"), ("top/audio/", "top/ref/")])
def test_adc2004_is_found_anywhere_in_the_archive(get_data, home, tmp_path, prefixes):
    files = {"README": b""} if prefixes[0] == "" else {}
    for name in ADC2004:
        files[f"{prefixes[0]}{name}.wav"] = b"x"
        files[f"{prefixes[1]}{name}REF.txt"] = b"0 0\n"
    home.files["/adc2004.zip"] = archive(files)
    result = get_data("adc2004")
    assert result.returncode == 0 and result.stderr == ""
    folder = datasets(tmp_path) / "adc2004_full_set"
    assert {p.stem for p in folder.glob("*.wav")} == set(ADC2004)
    assert len(list(folder.glob("*REF.txt"))) == 20


def test_contours_are_the_melody2_files_alone(get_data, home, tmp_path):
    base = "medleydb-master/medleydb/data/Annotations/Melody"
    files = {f"{base}/Melody2/song{i}_MELODY2.csv": b"0,0\n" for i in range(108)}
    files |= {f"{base}/Melody1/song0_MELODY1.csv": b"0,0\n", "medleydb-master/setup.py": b""}
    home.files["/contours.zip"] = archive(files)
    assert get_data("contours").returncode == 0
    folder = datasets(tmp_path) / "melody_contours"
    assert len(list(folder.rglob("*.csv"))) == len(list(folder.glob("*_MELODY2.csv"))) == 108
    assert not list(folder.rglob("*.py"))


def test_ssvd_keeps_its_folders_and_leaves_the_pictures(get_data, home, tmp_path):
    files = {"SSVD-v2.0-main/images/train/1_01.png": b"x", "SSVD-v2.0-main/README.md": b""}
    for i in range(194):
        part = "test" if i < 127 else "train&valid"
        files |= {f"SSVD-v2.0-main/{part}/{i}.{kind}": b"1 2 60\n" for kind in ("flac", "txt")}
    home.files["/ssvd.zip"] = archive(files)
    result = get_data("ssvd")
    assert result.returncode == 0 and result.stderr == ""
    assert (datasets(tmp_path) / "SSVD-v2.0/train&valid/193.flac").exists()
    assert not (datasets(tmp_path) / "SSVD-v2.0/images").exists()


@pytest.mark.parametrize("name", ["mirex05", "contours"])
def test_an_archive_of_something_else_is_refused(get_data, home, tmp_path, name):
    home.files[f"/{name}.zip"] = archive({"folder/readme.md": b"moved"})
    result = get_data(name)
    assert result.returncode == 1 and "is not this set" in result.stderr
    assert leftovers(tmp_path) == []


def test_local_copies_by_file_address(get_data, tmp_path):
    copy = tmp_path / "copy.zip"
    copy.write_bytes(archive(mirex05(prefix="")))
    assert get_data("mirex05", MIREX05_URL=copy.as_uri()).returncode == 0
    missing = get_data("adc2004", ADC2004_URL=(tmp_path / "missing.zip").as_uri())
    assert missing.returncode == 1 and "ADC2004_URL" in missing.stderr


def test_a_full_disk_leaves_nothing_half_unpacked(get_data, home, tmp_path):
    big = mirex05() | {"mirex05TrainFiles/train05.wav": bytes(4_000_000)}  # packs to 4 kB
    home.files["/mirex05.zip"] = archive(big)
    # A limit on file sizes fails a write as a full disk does.
    result = get_data("mirex05", before="trap '' XFSZ; ulimit -f 1000;")
    assert result.returncode == 1 and "disk full" in result.stderr
    assert leftovers(tmp_path) == ["mirex05TrainFiles.zip.part"]
    assert get_data("mirex05").returncode == 0
    assert len(home.requests) == 1  # the verified archive was used again
    assert leftovers(tmp_path) == ["mirex05TrainFiles"]


def test_a_full_disk_during_the_download(get_data, home):
    home.files["/mirex05.zip"] = archive({"a.wav": os.urandom(300_000)})
    result = get_data("mirex05", before="trap '' XFSZ; ulimit -f 100;", GET_DATA_TRIES="3")
    assert result.returncode == 1 and "is the disk full?" in result.stderr
    assert len(home.requests) == 1


def test_usage(get_data, home, tmp_path):
    assert "MIR1K_URL" in get_data("--help").stdout
    unknown = get_data("mirex05", "mir2k")
    assert unknown.returncode == 2
    assert "mir2k" in unknown.stderr and "mir1k mirex05 adc2004 ssvd contours" in unknown.stderr
    assert home.requests == [] and not datasets(tmp_path).exists()
    (tmp_path / "file").write_bytes(b"")
    blocked = get_data("mirex05", DATASETS_DIR=str(tmp_path / "file"))
    assert blocked.returncode == 1 and "DATASETS_DIR" in blocked.stderr
