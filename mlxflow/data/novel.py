"""Prompts for things that do not exist (assets/novel.txt): the measure asks for them, so no caption in training says them.

Words are what is compared: a like picture under other words ("happy cloud" for "smiling cloud") is not kept out.
"""

import re
from functools import cache

from mlxflow.paths import assets_dir

# Words that do not tell one thing from another.
_SMALL = frozenset("a an the and with in on of it its for to at next top wearing holding eating carrying having that is "
                   "made face".split())


@cache
def novel_prompts() -> tuple[str, ...]:
    """The prompts, in the file's order."""
    return tuple((assets_dir() / "novel.txt").read_text(encoding="utf-8").splitlines())


def content(caption: str) -> frozenset[str]:
    """The words of a caption that say what is to be seen, without plural endings."""
    words = re.findall(r"[a-z]+", caption.lower())
    return frozenset(re.sub(r"(?<=[a-z]{3})s$", "", word) for word in words if word not in _SMALL)


@cache
def _novel_contents() -> tuple[frozenset[str], ...]:
    return tuple(map(content, novel_prompts()))


def shows_novel(caption: str) -> bool:
    """Whether a caption says all that one of the novel prompts says."""
    words = content(caption)
    return any(novel <= words for novel in _novel_contents())
