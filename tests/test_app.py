"""The local app, over HTTP, as a browser would use it."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
gradio_client = pytest.importorskip("gradio_client", reason="optional: uv sync --group app")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"TMPDIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, ROOT / "app.py", "--no-browser", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=5)
            break
        except OSError:
            assert process.poll() is None, "app.py ended"
            time.sleep(0.2)
    yield address, folder
    process.terminate()
    process.wait(timeout=30)
    assert not list(folder.glob("melody_app_*"))  # nothing stays


def ask(address, path, lead="any"):
    client = gradio_client.Client(address, verbose=False)
    return client.predict(gradio_client.handle_file(str(path)), lead, api_name="/on_submit")


def test_a_song_gives_its_page_and_files(server, tmp_path):
    page, files = ask(server[0], ROOT / "examples" / "example.ogg")
    assert "<iframe" in str(page) and "sandbox=" in str(page)
    names = {Path(f).name for f in files}
    assert {"example.html", "example.csv", "example.melody.wav"} <= names
    csv = next(f for f in files if f.endswith(".csv"))
    assert Path(csv).read_text().startswith("time,frequency,confidence,voiced\n")


def test_what_is_no_song_is_refused_with_a_reason(server, tmp_path):
    (tmp_path / "words.wav").write_text("no sound")
    with pytest.raises(gradio_client.exceptions.AppError, match=r"words\.wav: not audio"):
        ask(server[0], tmp_path / "words.wav")


def test_files_of_this_machine_are_not_served(server):
    with pytest.raises(Exception, match="403|404|Forbidden|not allowed"):
        urllib.request.urlopen(server[0] + "gradio_api/file=/etc/passwd", timeout=10)


def test_only_this_machine_is_served():
    source = (ROOT / "app.py").read_text()
    assert re.findall(r'server_name="([^"]+)"', source) == ["127.0.0.1"]
