"""Takes the pictures that README shows: python docs/page.py (it needs the extras `web` and `test`).

    page.png        the page on a desk: light on the left, dark on the right
    page-phone.png  the page on a phone
    terminal.png    the preview in a terminal (docs/terminal.py)
    edits.png       what `mlxflow edit` does (docs/edits.py)

The words and seeds are fixed, so the pictures change with the weights and the page only. Options of the command
line, such as --weights, go to mlxflow.
"""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import edits
import terminal
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
BEFORE = [("red heart", 3), ("angry face", 5), ("green apple", 1), ("blue fish", 2)]
NOW = ("smiling cat", 7)


def shot(browser: Browser, address: str, width: int, height: int, scheme: str, scale: float, **options) -> Image.Image:
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme,
                                  device_scale_factor=scale, **options)
    page = context.new_page()
    for prompt, seed in [*(BEFORE if width > 500 else []), NOW]:
        page.goto(f"{address}#prompt={prompt.replace(' ', '+')}&seed={seed}&locked=0")
        page.reload()
        page.locator(".tile[data-stage=final]:not([data-busy])").nth(3).wait_for(timeout=300_000)
    page.reload()  # what it says of seconds would be this machine's: now it comes from memory
    page.locator("#state:has-text('From memory')").wait_for()
    page.mouse.move(0, 0)
    page.wait_for_timeout(600)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    context.close()
    return picture


def save(picture: Image.Image, name: str) -> None:
    """In full colour: a palette of 256 makes a red heart brown."""
    picture.convert("RGB").save(HERE / name, optimize=True)
    print(HERE / name, f"{(HERE / name).stat().st_size / 1000:.0f} KB")


def main() -> None:
    server = subprocess.Popen([sys.executable, "-m", "mlxflow", "serve", "--port", "0", *sys.argv[1:]],
                              stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().strip()
        with sync_playwright() as playwright:
            found = next(filter(None, map(shutil.which, BROWSERS)))
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
            light, dark = (shot(browser, address, 1000, 860, scheme, 1.25) for scheme in ("light", "dark"))
            phone = shot(browser, address, 390, 780, "dark", 1.25, has_touch=True, is_mobile=True)
            browser.close()
    finally:
        server.terminate()
        server.wait()
    mask = Image.new("L", light.size)
    middle, slant = light.width // 2, light.height // 6
    ImageDraw.Draw(mask).polygon([(middle + slant, 0), (light.width, 0), light.size, (middle - slant, light.height)], 255)
    save(Image.composite(dark, light, mask), "page.png")
    save(phone, "page-phone.png")
    terminal.main(sys.argv[1:])
    edits.main(sys.argv[1:])


if __name__ == "__main__":
    main()
