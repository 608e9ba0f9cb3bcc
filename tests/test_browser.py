"""The pages in a real browser: play, seek, zoom, hover, sort."""

import shutil

import pytest
from test_page import RATE, chirp_melody, tone
from test_report_page import make_rows, write

import page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    with playwright.sync_playwright() as run:
        opened = run.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Opens a file with the network off; fails the test on an error in the page's console."""
    contexts, errors = [], []

    def opener(path, width=1280):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, offline=True, bypass_csp=True
        )
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        tab.goto(path.as_uri())
        return tab

    yield opener
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture
def listening(tmp_path, open_page):
    page.write_page(tmp_path / "a 'song' #1.html", chirp_melody(), tone(), RATE, "song.ogg")
    return open_page(tmp_path / "a 'song' #1.html")


def now_s(tab):
    return tab.evaluate("document.querySelector('audio').currentTime")


def test_play_moves_the_cursor(listening):
    button = listening.get_by_label("Play or pause")
    before = float(listening.locator(".stage").get_attribute("data-cursor"))
    button.click()
    listening.wait_for_function("document.querySelector('audio').currentTime > 0.3")
    assert button.inner_text().endswith("Pause")
    button.click()
    listening.wait_for_function("document.querySelector('audio').paused")
    after = float(listening.locator(".stage").get_attribute("data-cursor"))
    width = listening.locator(".stage").bounding_box()["width"]
    assert after - before == pytest.approx(now_s(listening) / 3 * width, abs=width / 50)


def test_click_seeks_and_keys_move(listening):
    stage = listening.locator(".stage")
    box = stage.bounding_box()
    stage.click(position={"x": box["width"] / 2, "y": 50})
    assert now_s(listening) == pytest.approx(1.5, abs=0.05)
    listening.keyboard.press("ArrowLeft")
    assert now_s(listening) == pytest.approx(0.5, abs=0.05)
    assert float(stage.get_attribute("aria-valuenow")) == pytest.approx(0.5, abs=0.05)


def test_hover_names_the_note_under_the_pointer(listening):
    stage = listening.locator(".stage")
    box = stage.bounding_box()
    listening.mouse.move(box["x"] + box["width"] * 2 / 3, box["y"] + 40)  # 2 s: 220 * 2**(2/3)
    tip = listening.locator(".tip").inner_text()
    assert "melody: F4" in tip and "349." in tip and "90 % sure" in tip
    listening.mouse.move(box["x"] + box["width"] / 6, box["y"] + 40)
    assert "no melody" in listening.locator(".tip").inner_text()


def test_zoom_shows_less_time_and_all_shows_everything(listening):
    listening.get_by_label("Zoom in").click()
    stage = listening.locator(".stage")
    stage.click(position={"x": stage.bounding_box()["width"] - 2, "y": 50})
    assert now_s(listening) == pytest.approx(1.5, abs=0.05)  # half of 3 s
    listening.get_by_label("Show all").click()
    stage.click(position={"x": stage.bounding_box()["width"] / 3, "y": 50})
    assert now_s(listening) == pytest.approx(1.0, abs=0.05)


def test_balance_and_downloads(listening):
    listening.get_by_label("Play or pause").click()
    listening.get_by_label("Recording or melody").fill("100")
    with listening.expect_download() as download:
        listening.get_by_text("Save csv").click()
    assert download.value.suggested_filename == "song.csv"


def test_sound_is_in_time_with_the_picture(tmp_path, open_page):
    """The browser, too, must hear the click of 1 s at 1 s."""
    import numpy as np

    audio = np.zeros(2 * RATE, np.float32)
    audio[RATE : RATE + 20] = 0.9
    page.write_page(tmp_path / "click.html", chirp_melody(2.0), audio, RATE, "click")
    loudest_s = open_page(tmp_path / "click.html").evaluate(
        """async () => {
          const data = JSON.parse(document.getElementById("data").textContent);
          const bytes = Uint8Array.from(atob(data.audio.split(",")[1]), (c) => c.charCodeAt(0));
          const context = new OfflineAudioContext(1, 1, 44100);
          const sound = (await context.decodeAudioData(bytes.buffer)).getChannelData(0);
          let best = 0;
          sound.forEach((v, i) => { if (Math.abs(v) > Math.abs(sound[best])) best = i; });
          return best / 44100;
        }"""
    )
    assert loudest_s == pytest.approx(1.0, abs=0.006)


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_the_screen(tmp_path, open_page, width):
    page.write_page(tmp_path / "p.html", chirp_melody(), tone(), RATE, "x" * 200)
    write(tmp_path, *make_rows())
    for name in ("p.html", "report.html"):
        tab = open_page(tmp_path / name, width)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_report_sorts_by_a_heading(tmp_path, open_page):
    write(tmp_path, *make_rows())
    tab = open_page(tmp_path / "report.html")
    heading = tab.locator("table.sortable th", has_text="OA")
    column = heading.evaluate("th => th.cellIndex")
    cells = f"rows => rows.map(r => Number(r.cells[{column}].dataset.value))"
    for direction in ("descending", "ascending"):
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == direction
        values = tab.locator("table.sortable tbody tr").evaluate_all(cells)
        assert values == sorted(values, reverse=direction == "descending")
        assert len(set(values)) > 1
    tab.locator("table.sortable th button").first.click()  # by name
    names = tab.locator("table.sortable tbody tr td:first-child").all_inner_texts()
    assert names == sorted(names, reverse=True)


def test_report_plays_a_song(tmp_path, open_page):
    write(tmp_path, *make_rows())
    tab = open_page(tmp_path / "report.html")
    assert tab.locator(".stage").count() == 0
    tab.locator("summary").first.click()
    tab.locator(".stage").wait_for()
    tab.get_by_label("Play or pause").click()
    tab.wait_for_function("document.querySelector('audio').currentTime > 0.2")
    box = tab.locator(".stage").bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    tip = tab.locator(".tip").inner_text()
    assert "reference: A3" in tip and "<peer>: A" in tip
