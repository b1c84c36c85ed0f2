"""The embedded emoji as a data folder of its own: what a fine-tuned model rehearses, so that it does not
forget.

It is made once, in the user's cache folder, named by what it is made from; a temporary one serves where that
cannot be written.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from mlxflow.data.emoji import build_emoji
from mlxflow.data.folder import METADATA
from mlxflow.data.stream import Batch
from mlxflow.errors import MlxflowError
from mlxflow.paths import assets_dir, cache_dir


@cache
def embedded_folder() -> Path:
    """The folder of the embedded set, 3,925 pictures of 64x64 with captions; made if it is missing (some
    seconds).
    """
    content = hashlib.sha256()
    for name in ("noto-64.webp", "noto-64.txt", "captions.jsonl"):
        content.update((assets_dir() / name).read_bytes())
    folder = cache_dir() / f"emoji-{content.hexdigest()[:12]}"
    if (folder / METADATA).is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        build_emoji(folder, source="embedded")
    except (OSError, MlxflowError):
        if (folder / METADATA).is_file():  # another process has just made it
            return folder
        folder = Path(tempfile.mkdtemp(prefix="mlxflow-")) / "emoji"
        build_emoji(folder, source="embedded")
    return folder


def mixed(own: Iterator[Batch], rehearsed: Iterator[Batch]) -> Iterator[Batch]:
    """Batches of both streams, one after the other in each: `[b1 + b2, ...]`."""
    for ours, theirs in zip(own, rehearsed):
        yield Batch(*(np.concatenate(pair) for pair in zip(ours, theirs)))
