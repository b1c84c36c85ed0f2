"""Pictures for chats: the size and the weight that each takes, kept whatever the picture is.

    slack     custom emoji: 128 x 128, less than 128 KB; PNG or GIF
    discord   custom emoji: 128 x 128, at most 256 KiB; PNG, WebP or GIF
    sticker   512 x 512, the outer 16 pixels free: WebP of less than 100 KB is a sticker of WhatsApp and of
              Telegram; PNG of at most 512 KB one of Telegram

Sources. Slack: "square images under 128KB and with transparent backgrounds work best"
(docs.slack.dev/reference/methods/admin.emoji.add). Discord: "the 128x128 emoji image", "a maximum file size
of 256 KiB"; JPEG, PNG, GIF, WebP and AVIF (docs.discord.com/developers/resources/emoji). WhatsApp: "exactly
512 x 512 pixels", WebP, "less than 100KB" (github.com/WhatsApp/stickers, Android/README.md), a gap of 16
pixels around (tyntec.com/docs/whatsapp-business-api-tutorials-creating-and-sending-whatsapp-stickers).
Telegram: PNG or WebP, one side of exactly 512 pixels (core.telegram.org/stickers), up to 512 KB (TDLib's
InputSticker).

KB is taken as 1,000 bytes, which also keeps limits that count 1,024. A picture that is too heavy is written
with fewer colours (PNG, GIF), or as lossy WebP, no worse than it must be.
"""

from typing import NamedTuple

from PIL import Image

from mlxflow.errors import MlxflowError
from mlxflow.sampling.formats import encode
from mlxflow.sampling.resize import resized


class Platform(NamedTuple):
    """size in pixels; the most bytes by ending, the usual one first; pixels that stay free on each side."""

    size: int
    most: dict[str, int]
    margin: int = 0


PLATFORMS = {
    "slack": Platform(128, {".png": 127_999, ".gif": 127_999}),
    "discord": Platform(128, {".png": 256_000, ".webp": 256_000, ".gif": 256_000}),
    "sticker": Platform(512, {".webp": 99_999, ".png": 512_000}, margin=16),
}


_COLOURS = [{"colours": colours} for colours in (255, 128, 64, 32, 16, 8, 4, 2)]
# Settings of the encoder, each lighter than the one before.
LIGHTER = {
    ".webp": [{"quality": quality} for quality in (95, 90, 80, 70, 60, 50, 40, 30, 20, 10, 1)],
    ".png": _COLOURS,
    ".gif": _COLOURS,
}


def platform(name: str) -> Platform:
    if name not in PLATFORMS:
        raise MlxflowError(f"There is no '{name}' to make pictures for: choose {', '.join(PLATFORMS)}.")
    return PLATFORMS[name]


def placed(image: Image.Image, wanted: Platform) -> Image.Image:
    """A square picture at the platform's size. An opaque one fills it; a transparent one keeps the margin."""
    if not wanted.margin or image.mode != "RGBA":
        return resized(image, wanted.size)
    canvas = Image.new("RGBA", (wanted.size, wanted.size))
    canvas.paste(resized(image, wanted.size - 2 * wanted.margin), (wanted.margin, wanted.margin))
    return canvas


def encode_for(
    image: Image.Image,
    name: str,
    suffix: str | None = None,
    made_by: dict | None = None,
    description: str = "",
) -> bytes:
    """The file of a square picture for a platform, of its size and within its weight.

    suffix: None is the platform's usual one. Raises MlxflowError for a suffix that it does not take.
    """
    wanted = platform(name)
    suffix = suffix or next(iter(wanted.most))
    if suffix not in wanted.most:
        raise MlxflowError(
            f"{name} takes {', '.join(s[1:].upper() for s in wanted.most)}, not {suffix[1:].upper()}."
        )
    if image.width != image.height:
        raise MlxflowError(f"A picture for {name} is square, not {image.width} x {image.height}.")
    image = placed(image, wanted)
    content = encode(image, suffix, made_by, description)
    if len(content) <= wanted.most[suffix]:
        return content
    # The first of the lighter ones that is light enough, by halving.
    lighter, best = LIGHTER[suffix], None
    low, high = 0, len(lighter)
    while low < high:
        middle = (low + high) // 2
        content = encode(image, suffix, made_by, description, **lighter[middle])
        if len(content) <= wanted.most[suffix]:
            best, high = content, middle
        else:
            low = middle + 1
    if best is not None:
        return best
    raise MlxflowError(
        f"The picture cannot be made lighter than {len(content):,} bytes, and {name} takes "
        f"{wanted.most[suffix]:,}: leave its metadata out with --no-metadata."
    )
