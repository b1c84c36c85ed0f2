"""What made a picture, in the picture: written into every format that has room for it, and read back.

PNG and APNG: iTXt chunks `Description`, `Software` and `mlxflow` (JSON). WebP: an XMP packet with
dc:description and mlxflow:made_by (the JSON). GIF: a comment. SVG: <desc> and <metadata>. No time stamps: the
same picture is the same bytes. Reading trusts nothing: what is not a JSON object of ours is as good as
nothing.
"""

import json
import re
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mlxflow import __version__
from mlxflow.data.images import FORMATS
from mlxflow.errors import MlxflowError

NAMESPACE = "https://github.com/mlxflow/made_by"
# The JSON of a grid of 256 prompts of 1,000 characters fits.
MAX_CHARACTERS = 4_000_000
_XMP = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF \
xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" \
xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" \
xmlns:mlxflow="{namespace}"><dc:description><rdf:Alt><rdf:li xml:lang="x-default">{description}</rdf:li></rdf:Alt>\
</dc:description><xmp:CreatorTool>mlxflow {version}</xmp:CreatorTool><mlxflow:made_by>{text}</mlxflow:made_by>\
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def as_text(made_by: dict) -> str:
    """The JSON of what made a picture, with the version."""
    return json.dumps({**made_by, "version": __version__}, ensure_ascii=False)


def png_chunks(made_by: dict, description: str) -> PngInfo:
    """iTXt chunks (UTF-8): Description, Software, and `made_by` under the keyword mlxflow."""
    chunks = PngInfo()
    chunks.add_itxt("Description", description)
    chunks.add_itxt("Software", f"mlxflow {__version__}")
    chunks.add_itxt("mlxflow", as_text(made_by))
    return chunks


def _xml(text: str) -> str:
    """Escaped, without the control characters that XML cannot hold."""
    return escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "", text))


def xmp(made_by: dict, description: str) -> bytes:
    return _XMP.format(namespace=NAMESPACE, description=_xml(description), version=__version__,
                       text=_xml(as_text(made_by))).encode()


def comment(made_by: dict, description: str) -> bytes:
    """The JSON, then a line for people."""
    return f"mlxflow {as_text(made_by)}\n{description}".encode()


def svg_elements(made_by: dict, description: str) -> str:
    return (f"<desc>{_xml(description)}</desc>"
            f'<metadata><made_by xmlns="{NAMESPACE}">{_xml(as_text(made_by))}</made_by></metadata>')


def read(path: str | Path) -> dict | None:
    """What made the picture in the file, or None when it does not say.

    Raises MlxflowError for a file that is missing or no picture.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
        text = _svg_text(path) if is_svg(head) else _picture_text(path)
    except FileNotFoundError:
        raise MlxflowError(f"{path}: there is no such picture.") from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, KeyError,
            Image.DecompressionBombError) as error:
        raise MlxflowError(f"{path}: not a picture that can be read ({error}).") from None
    try:
        made_by = json.loads(text) if text and len(text) <= MAX_CHARACTERS else None
    except (ValueError, RecursionError):
        return None
    return made_by if isinstance(made_by, dict) else None


def is_svg(head: bytes) -> bool:
    """Whether a file that starts so is an SVG."""
    return b"<svg" in head and head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith((b"<?xml", b"<svg", b"<!--"))


def _picture_text(path: Path) -> str | None:
    with Image.open(path, formats=FORMATS) as image:
        if image.format == "PNG":
            image.load()  # chunks may stand after the pixels
            return getattr(image, "text", {}).get("mlxflow")
        if image.format == "GIF":
            text = image.info.get("comment", b"").decode("utf-8", "replace")
            return text.removeprefix("mlxflow ").split("\n")[0] if text.startswith("mlxflow {") else None
        packet = image.info.get("xmp", b"")
        packet = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet
        return _element_text(packet[packet.find("<x:xmpmeta"):packet.rfind("</x:xmpmeta>") + 12])


def _svg_text(path: Path) -> str | None:
    if path.stat().st_size > 10 * MAX_CHARACTERS:
        raise ValueError("too large")
    return _element_text(path.read_text(encoding="utf-8"))


def _element_text(xml: str) -> str | None:
    """The text of the made_by element; None where there is none. Documents with entities of their own are
    refused.
    """
    if "made_by" not in xml or "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        return None
    try:
        found = ElementTree.fromstring(xml).find(f".//{{{NAMESPACE}}}made_by")
    except ElementTree.ParseError:
        return None
    return None if found is None else found.text
