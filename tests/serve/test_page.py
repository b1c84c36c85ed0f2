"""The page in a real browser: the system's Chromium, without a window, driven by Playwright."""

import base64
import io
import re
import shutil
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from mlxflow.sampling.pipeline import Pipeline
from mlxflow.sampling.resize import resized
from tests.serve.conftest import program, serving, until
from tests.serve.slow import SlowPipeline

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
STEPS = 3  # of the fine pictures, so that the tests are quick
FINE = ".tile[data-stage=final]:not([data-busy])"


@pytest.fixture(scope="module")
def browser():
    # Of this module, not of the session: Playwright keeps an event loop running, beside which asyncio.run
    # refuses.
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium or Chrome here: install Debian's chromium to test the page")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, headless=True, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser):
    """open_page(address, options of a browser context) -> a page in a fresh profile; it may not fail silently, nor
    ask anybody but the server."""
    contexts, wrong = [], []

    def make(address: str, **options) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda said: (
                said.type == "error" and "Failed to load" not in said.text and wrong.append(said.text)
            ),
        )
        page.on(
            "request",
            lambda asked: (
                asked.url.startswith((address.partition("?")[0], "data:", "blob:"))
                or wrong.append(f"asks {asked.url}")
            ),
        )
        page.goto(f"{address}#steps={STEPS}")
        expect(page.locator("#model")).not_to_be_empty()
        return page

    yield make
    for context in contexts:
        context.close()
    assert not wrong, wrong


@pytest.fixture
def page(open_page, served) -> Page:
    return open_page(f"{served.address}/")


def write(page: Page, words: str) -> None:
    page.locator("#prompt").fill("")
    page.locator("#prompt").press_sequentially(words)


def all_fine(page: Page) -> None:
    expect(page.locator(FINE)).to_have_count(4, timeout=30_000)


def shown(page: Page, i: int) -> np.ndarray:
    source = page.locator(".tile .shown").nth(i).get_attribute("src")
    return pixels(base64.b64decode(source.removeprefix("data:image/png;base64,")))


def pixels(content: bytes) -> np.ndarray:
    made = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")).copy()
    made[made[..., 3] == 0] = 0
    return made


def expected(pipeline, words: str, seed: int, size: int = 256, **settings) -> np.ndarray:
    picture = resized(pipeline.generate(words, seed=seed, **{"steps": STEPS, **settings})[0], size)
    made = np.asarray(picture).copy()
    made[made[..., 3] == 0] = 0
    return made


def seed_of(page: Page) -> int:
    return int(page.locator("#seed").input_value())


def test_words_become_four_pictures_and_other_words_others(page, pipeline):
    page.keyboard.type("red cat")  # nothing was clicked: the words have the focus
    all_fine(page)
    for i in range(4):
        assert np.array_equal(shown(page, i), expected(pipeline, "red cat", seed_of(page) + i)), i
    before = shown(page, 0)
    page.keyboard.type("s and dogs")
    all_fine(page)
    assert not np.array_equal(shown(page, 0), before)
    assert np.array_equal(shown(page, 0), expected(pipeline, "red cats and dogs", seed_of(page)))
    expect(page.locator("#state")).to_contain_text(re.compile(r"First look after 0\.\d\d s"))
    expect(page).to_have_title("red cats and dogs \u00b7 mlxflow")


def test_the_draft_is_there_before_the_rest_and_a_keystroke_ends_what_it_replaces(open_page):
    slow = SlowPipeline()
    with serving(lambda: slow) as server:
        page = open_page(f"{server.address}/")
        page.keyboard.type("a")
        slow.allow(STEPS)
        expect(page.locator(".tile[data-stage=draft]")).to_have_count(1)
        assert (
            page.locator(".tile").nth(0).get_attribute("data-stage") == "draft" and len(slow.steps) == STEPS
        )
        page.keyboard.type("b")
        until(lambda: len(server.worker._jobs) == 2, "the second job")
        slow.allow()
        until(lambda: server.worker.counts["cancelled"] == 1, "the first job to end")
        slow.free = True
        slow.allow(1000)
        all_fine(page)
        seed = seed_of(page)
        draft, rest = (seed,), (seed + 1, seed + 2, seed + 3)
        assert [step[:-1] for step in slow.steps[: 2 * STEPS + 1]] == [draft] * STEPS + [rest] + [
            draft
        ] * STEPS, "of the first word one draft and one step of the others, then the second word"
        page.context.close()


def test_keys_that_come_quicker_than_drafts_let_one_of_them_be_seen(open_page):
    slow = SlowPipeline()
    with serving(lambda: slow) as server:
        page = open_page(f"{server.address}/")
        page.keyboard.type("a")
        until(slow.waiting.is_set, "the first draft")
        page.keyboard.type("bc")
        assert len(server.worker._jobs) == 1, "the newest words wait for the draft"
        slow.allow(STEPS)
        expect(page.locator(".tile[data-stage=draft]")).to_have_count(1)
        until(lambda: len(server.worker._jobs) == 2, "the newest words")
        slow.free = True
        slow.allow(1000)
        all_fine(page)
        assert server.worker.counts["cancelled"] == 1 and server.worker.counts["done"] == 1
        expect(page.locator("#history li span")).to_have_text(["abc"])
        page.context.close()


@pytest.mark.parametrize(
    "kind, size, form", [("png", 256, "PNG"), ("webp", 256, "WEBP"), ("slack", 128, "PNG")]
)
def test_downloads(page, pipeline, kind, size, form):
    write(page, "blue dog")
    all_fine(page)
    page.locator(".tile").nth(2).click()
    with page.expect_download() as download:
        page.locator(f"[data-save={kind}]").click()
    content = Path(download.value.path()).read_bytes()
    seed = seed_of(page) + 2
    assert download.value.suggested_filename == f"blue-dog-{seed}.{'webp' if kind == 'webp' else 'png'}"
    assert Image.open(io.BytesIO(content)).format == form and len(content) < 128_000
    assert np.array_equal(pixels(content), expected(pipeline, "blue dog", seed, size))
    expect(page.locator("#toast")).to_contain_text("Saved blue-dog-")
    kept = page.locator("#history img").get_attribute("src")
    assert kept == page.locator(".tile .shown").nth(2).get_attribute("src"), (
        "history shows the one that was kept"
    )


def test_download_of_svg_and_another_size(page):
    write(page, "sun")
    all_fine(page)
    with page.expect_download() as download:
        page.locator("[data-save=svg]").click()
    assert b"<svg" in Path(download.value.path()).read_bytes()[:500]
    page.get_by_text("512 px").click()
    with page.expect_download() as download:
        page.locator("[data-save=png]").click()
    assert Image.open(download.value.path()).size == (512, 512)


def test_without_vtracer_there_is_no_svg_and_the_button_says_why(open_page, monkeypatch):
    monkeypatch.setitem(sys.modules, "vtracer", None)
    with serving(lambda: SlowPipeline(free=True)) as server:
        page = open_page(f"{server.address}/")
        write(page, "cat")
        all_fine(page)
        expect(page.locator("[data-save=png]")).to_be_enabled()
        expect(page.locator("[data-save=svg]")).to_be_disabled()
        expect(page.locator("[data-save=svg]")).to_have_attribute("title", re.compile(r"mlxflow\[svg\]"))
        answer = server.get("/api/picture?prompt=cat&kind=svg")
        assert answer.status == 400 and "mlxflow[svg]" in answer.error["message"]
        page.context.close()


def test_copying_puts_the_picture_on_the_clipboard(open_page, served, pipeline):
    page = open_page(f"{served.address}/", permissions=["clipboard-read", "clipboard-write"])
    write(page, "green apple")
    all_fine(page)
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.keyboard.press("c")
    expect(page.locator("#toast")).to_have_text("Copied")
    copied = page.evaluate("""async () => {
        const [item] = await navigator.clipboard.read();
        const bytes = new Uint8Array(await (await item.getType("image/png")).arrayBuffer());
        return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
    }""")
    copied, wanted = (
        picture.astype(float)
        for picture in (
            pixels(base64.b64decode(copied)),
            expected(pipeline, "green apple", seed_of(page) + 1),
        )
    )
    # The browser keeps the clipboard's picture premultiplied, which rounds.
    assert np.abs(copied[..., :3] * copied[..., 3:] - wanted[..., :3] * wanted[..., 3:]).max() <= 2 * 255
    assert np.array_equal(copied[..., 3], wanted[..., 3])


def test_a_reload_shows_the_same(page):
    page.locator("#lock").click()
    page.locator("#guidance").press("ArrowRight")
    write(page, "red cat")
    all_fine(page)
    page.locator(".tile").nth(3).click()
    before = [shown(page, i) for i in range(4)], seed_of(page), page.url
    page.reload()
    all_fine(page)
    assert all(np.array_equal(shown(page, i), before[0][i]) for i in range(4))
    assert (seed_of(page), page.url) == before[1:]
    expect(page.locator("#prompt")).to_have_value("red cat")
    expect(page.locator("#guidance-shown")).to_have_text("3.5")
    expect(page.locator("#lock")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".tile").nth(3)).to_have_attribute("aria-checked", "true")
    expect(page.locator("#history li")).to_have_count(1)


def test_enter_draws_four_others_unless_the_seed_is_locked(page):
    write(page, "cat")
    all_fine(page)
    first, picture = seed_of(page), shown(page, 0)
    page.keyboard.press("Enter")
    all_fine(page)
    second = seed_of(page)
    assert second != first and not np.array_equal(shown(page, 0), picture)
    page.locator("#lock").click()
    page.locator("#prompt").press("Enter")
    expect(page.locator("#toast")).to_contain_text("locked")
    write(page, "dog")
    all_fine(page)
    assert seed_of(page) == second
    page.locator("#seed").fill(f"{first}x")
    write(page, "cat")
    all_fine(page)
    assert np.array_equal(shown(page, 0), picture), "a seed can be typed in"


def test_sliders_draw_with_their_settings(page, pipeline):
    write(page, "cat")
    all_fine(page)
    for _ in range(3):
        page.locator("#steps").press("ArrowRight")
    page.locator("#guidance").press("Home")
    expect(page.locator("#steps-shown")).to_have_text("6")
    expect(page.locator("#shell code")).to_contain_text("--steps 6 --guidance 0")
    expect(page.locator("#state")).to_have_text(re.compile("all done"))
    all_fine(page)
    until(
        lambda: np.array_equal(
            shown(page, 3), expected(pipeline, "cat", seed_of(page) + 3, steps=6, guidance=0.0)
        ),
        "the picture of these settings",
    )


def test_history_brings_pictures_back(page):
    seeds = {}
    for words in ("red cat", "blue dog"):
        write(page, words)
        all_fine(page)
        seeds[words] = seed_of(page)
    expect(page.locator("#history li span")).to_have_text(["blue dog", "red cat"])
    assert seeds["red cat"] != seeds["blue dog"], "other words from the start begin with another seed"
    page.locator("#history li button").nth(1).click()
    expect(page.locator("#prompt")).to_have_value("red cat")
    all_fine(page)
    assert seed_of(page) == seeds["red cat"]
    page.locator("#forget").click()
    expect(page.locator("#history")).to_be_hidden()
    page.reload()
    all_fine(page)
    expect(page.locator("#history li")).to_have_count(1)


def test_words_on_the_way_to_others_are_not_kept(page):
    page.keyboard.type("red")
    all_fine(page)
    page.keyboard.type(" cat")
    all_fine(page)
    expect(page.locator("#history li span")).to_have_text(["red cat"])


def test_the_keyboard_is_enough(page):
    page.locator("body").click(position={"x": 5, "y": 5})
    page.keyboard.type("cat")
    expect(page.locator("#prompt")).to_have_value("cat")
    all_fine(page)
    tile = page.locator(".tile")
    page.keyboard.press("ArrowDown")
    expect(tile.nth(0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(tile.nth(1)).to_be_focused()
    expect(tile.nth(1)).to_have_attribute("aria-checked", "true")
    page.keyboard.press("4")
    expect(tile.nth(3)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(tile.nth(0)).to_be_focused()
    with page.expect_download() as download:
        page.keyboard.press("p")
    assert download.value.suggested_filename.startswith("cat-")
    page.keyboard.press("l")
    expect(page.locator("#lock")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("/")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.press("Alt+3")
    expect(page.locator("#prompt")).to_be_focused()
    expect(tile.nth(2)).to_have_attribute("aria-checked", "true")
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.dataset?.save || ''"))
    assert {"guidance", "steps", "seed", "lock", "copy", "png", "webp", "svg", "slack"} <= reached


def test_markup_in_a_prompt_is_words(page):
    words = "<img src=x onerror=\"window.hacked=1\"> cat & 'dog'"
    write(page, words)
    all_fine(page)
    expect(page.locator("#history li span").first).to_have_text(words)
    expect(page.locator("#shell code")).to_contain_text(
        "'<img src=x onerror=\"window.hacked=1\"> cat & '\\''dog'\\''' --seed"
    )
    page.reload()
    all_fine(page)
    expect(page.locator("#prompt")).to_have_value(words)
    assert page.evaluate("window.hacked === undefined && !document.querySelector('[onerror]')")


def test_a_prompt_that_cannot_be_drawn_says_why_and_the_next_one_is_drawn(page):
    write(page, "\u7b11\u8138")
    expect(page.locator("#state")).to_contain_text("There is no English word")
    expect(page.locator("[data-busy]")).to_have_count(0)
    write(page, "cat")
    all_fine(page)
    expect(page.locator("#state")).not_to_have_class("wrong")


def test_a_phone(open_page, served):
    page = open_page(
        f"{served.address}/", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    write(page, "a prompt with many words and averyveryveryveryverylongonethatdoesnotbreak")
    all_fine(page)
    for width in (320, 360):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [page.locator(".tile").nth(i).bounding_box() for i in range(4)]
    assert boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"] and boxes[0]["width"] > 150
    expect(page.locator("[data-save=copy]")).to_be_in_viewport(ratio=1)
    for button in page.locator("#save button, #more, #lock, #theme").all():
        box = button.bounding_box()
        assert min(box["width"], box["height"]) >= 40, "large enough for a thumb"
    with page.expect_download():
        page.locator("[data-save=slack]").tap()


CONTRAST = """(names) => names.map((name) => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const bright = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255)
            .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const element = document.querySelector(name);
    let ground = element;
    while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
    const colours = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
    const [high, low] = colours.map(bright).sort((a, b) => b - a);
    return [name, (high + 0.05) / (low + 0.05)];
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_are_readable_and_a_choice_is_remembered(open_page, served, scheme):
    page = open_page(f"{served.address}/", color_scheme=scheme)
    write(page, "cat")
    all_fine(page)
    read = [
        "#prompt",
        "#more",
        "#state",
        "[data-save=copy]",
        "[data-save=png]",
        "#steps-shown",
        ".ends",
        "#shell code",
        "#history h2",
        "#history span",
        "#model",
        "#sizes span",
    ]

    def ground() -> int:
        return sum(
            map(
                int,
                re.findall(
                    r"\d+", page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
                ),
            )
        )

    for _ in range(2):
        for name, contrast in page.evaluate(CONTRAST, read):
            assert contrast >= 4.5, f"{name} has a contrast of {contrast:.1f} (WCAG AA wants 4.5)"
        first = ground()
        assert (first > 600) == (scheme == "light")
        page.locator("#theme").click()
        scheme = "dark" if scheme == "light" else "light"
    page.reload()
    assert ground() == first or (ground() > 600) == (scheme == "light")
    page.locator("#theme").click()
    chosen = ground()
    page.reload()
    assert ground() == chosen


def test_a_busy_server_is_waited_for(open_page):
    slow = SlowPipeline()
    with serving(lambda: slow, queue=1) as server:
        page = open_page(f"{server.address}/")
        other = threading.Thread(target=lambda: server.post("/v1/images/generations", {"prompt": "cat"}))
        other.start()
        until(slow.waiting.is_set, "another's job")
        page.keyboard.type("d")
        expect(page.locator("#state")).to_contain_text("busy")
        slow.free = True
        slow.allow(1000)
        all_fine(page)
        other.join(60)
        page.context.close()


def test_a_server_that_is_killed_and_started_again_is_found_again(open_page, weights, pipeline):
    with program("--weights", str(weights), "--port", "0") as (server, *_):
        page = open_page(f"{server.address}/")
        write(page, "cat")
        all_fine(page)
    page.locator("#prompt").press_sequentially("s")
    expect(page.locator("#state")).to_contain_text("not there")
    with program("--weights", str(weights), "--port", str(server.port)):
        all_fine(page)
        assert np.array_equal(shown(page, 0), expected(pipeline, "cats", seed_of(page)))
        page.context.close()


def test_the_token_opens_the_page_and_leaves_the_address(open_page, weights):
    with serving(partial(Pipeline.load, weights), token="a-token-of-some-length") as server:
        page = open_page(f"{server.address}/?token=a-token-of-some-length")
        assert "token" not in page.url
        write(page, "cat")
        all_fine(page)
        page.context.close()
