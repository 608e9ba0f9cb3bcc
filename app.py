"""The melody extractor as a page in the browser, on this machine alone.

    uv sync --group app
    uv run app.py

Drop a song or record one: its listening page opens, with files to save. Nothing leaves the machine:
the page is served on 127.0.0.1, and recordings are deleted after an hour, and at the end.
"""

import argparse
import contextlib
import html
import os
import shutil
import signal
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import batch
from audio import audio_info
from extractor import MelodyExtractor

MAX_BYTES = 300 * 1024 * 1024
MAX_MINUTES = 30
N_AT_ONCE = 2  # recordings analysed at the same time; others wait in a queue
KEPT_S = 3600  # files of a session are deleted after so long
FORMATS = ("html", "csv", "midi", "wav")  # to show and to save


LEADS = (("Whoever leads", "any"), ("Singing only", "voice"))


@cache
def extractor(lead: str) -> MelodyExtractor:
    """The network, loaded once for each choice of the lead."""
    return MelodyExtractor(lead=lead)


def analyse(
    path: str | None,
    lead: str,
    progress: "gr.Progress",  # noqa: F821
) -> tuple[str, list[str]]:
    """The listening page of an uploaded recording, as HTML, and the files to save."""
    if not path:
        raise ValueError("Drop a song here first, or record one.")
    minutes = audio_info(path).duration_s / 60
    if minutes > MAX_MINUTES:
        raise ValueError(
            f"This recording lasts {minutes:.0f} minutes; the page takes up to {MAX_MINUTES}. "
            "Longer ones: uv run inference.py SONG"
        )
    progress(0.0, desc="Reading")
    root = Path(os.environ["GRADIO_TEMP_DIR"])
    sweep(root)
    folder = Path(tempfile.mkdtemp(dir=root))
    formats = [fmt for fmt in FORMATS if not batch.missing_package(fmt)]
    result = batch.process(
        batch.Job(Path(path), Path(path).stem),
        extractor(lead),
        argparse.Namespace(output_dir=folder, formats=formats, hop=None),
        lambda done_s, total_s: progress(0.9 * done_s / total_s, desc="Listening"),
    )
    files = result["outputs"]
    return framed(Path(files["html"]).read_text(encoding="utf-8")), list(files.values())


def sweep(folder: Path) -> None:
    """Delete uploads and results that are older than `KEPT_S`."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another request was faster
            if time.time() - path.stat().st_mtime > KEPT_S:
                shutil.rmtree(path, ignore_errors=True)


def framed(page: str) -> str:
    """A page inside a page, apart from it."""
    return (
        f'<iframe title="Listening page" srcdoc="{html.escape(page, quote=True)}" '
        'sandbox="allow-scripts allow-downloads" '
        'style="width:100%;height:46rem;border:0"></iframe>'
    )


def build() -> "gr.Blocks":  # noqa: F821
    """The page."""
    import gradio as gr

    def on_submit(
        path: str | None,
        lead: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple:
        try:
            return analyse(path, lead, progress)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            text = str(error).replace(str(path), Path(path).name) if path else str(error)
            raise gr.Error(html.escape(text)) from error

    with gr.Blocks(title="Melody extraction") as page:
        gr.Markdown(
            "# The melody of your music\nDrop a song, or record one. It stays on this machine."
        )
        song = gr.Audio(type="filepath", sources=["upload", "microphone"], label="Song")
        lead = gr.Radio(LEADS, value="any", label="What counts as melody")
        button = gr.Button("Find the melody", variant="primary")
        shown = gr.HTML(label="Listening page")
        files = gr.File(label="Save", file_count="multiple", interactive=False)
        button.click(on_submit, [song, lead], [shown, files], concurrency_limit=N_AT_ONCE)
    return page


def main() -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    args = parser.parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
    except ImportError:
        print("app.py: needs gradio: uv sync --group app", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    with tempfile.TemporaryDirectory(prefix="melody_app_") as folder:  # gone when we stop
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build()
        page.queue(default_concurrency_limit=N_AT_ONCE).launch(
            server_name="127.0.0.1",
            server_port=args.port,
            share=False,
            inbrowser=not args.no_browser,
            max_file_size=MAX_BYTES,
            theme=theme,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
