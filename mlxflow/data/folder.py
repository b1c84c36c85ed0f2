"""A folder of pictures and what their captions are: the one form in which pictures come to training.

With `metadata.jsonl` (Hugging Face's ImageFolder convention) each line is a JSON object: `file_name` and
`text`, optionally `texts` (other captions), `style`, `split` ("train", "val" or "holdout"), `base`, `label`;
other keys are kept in `Record.extra`. Without it every picture of the folder and its sub-folders is taken:
the caption is the `.txt` beside it (one caption a line), else for a picture in a sub-folder the sub-folder's
name, which is also its class, else the file's own name: `smiling_cat.png` -> "smiling cat".
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from mlxflow.data.images import SUFFIXES
from mlxflow.errors import MlxflowError

METADATA = "metadata.jsonl"
SPLITS = ("train", "val", "holdout")
VAL_FRACTION = 0.02
VAL_MINIMUM = 50  # smaller folders keep everything for training


@dataclass(frozen=True)
class Record:
    """One picture and its captions."""

    file_name: str  # relative to the folder, with "/"
    text: str  # the main caption
    texts: tuple[str, ...] = ()  # other captions that fit as well
    style: str | None = None
    split: str = "train"
    base: str | None = None  # groups variants of one thing: the code points of the base emoji
    label: str | None = None  # the class
    extra: dict = field(default_factory=dict)
    root: Path = Path()

    @property
    def path(self) -> Path:
        return self.root / self.file_name


@dataclass(frozen=True)
class Folder:
    """A folder that was read: the records are sorted as in the metadata, else by file name."""

    root: Path
    records: list[Record]

    def split(self, name: str) -> list[Record]:
        """The records of "train", "val" or "holdout"."""
        return [record for record in self.records if record.split == name]

    @property
    def labels(self) -> list[str]:
        """The names of the classes, sorted."""
        return sorted({record.label for record in self.records if record.label is not None})


def read_folder(path: str | Path) -> Folder:
    """Read what a folder holds, without opening the pictures.

    Where no split is given, 2 % (chosen by a hash of the file name) become "val" if there are 50 or more.
    Raises MlxflowError with the file, and the line for metadata, when something is missing or malformed.
    """
    root = Path(path)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise MlxflowError(
            f"{root} {what}: give a folder of pictures (`mlxflow data emoji {root}` makes one)."
        )
    metadata = root / METADATA
    records, has_splits = _read_metadata(metadata) if metadata.is_file() else (_scan(root), False)
    if not records:
        raise MlxflowError(f"{root} holds no pictures ({', '.join(s[1:] for s in SUFFIXES)}).")
    return Folder(root, records if has_splits else _with_val(records))


def _read_metadata(path: Path) -> tuple[list[Record], bool]:
    records, first_line, has_splits = [], {}, False
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise MlxflowError(f"{where}: this line is not JSON.") from None
        if not isinstance(row, dict):
            raise MlxflowError(f"{where}: this line is not a JSON object with file_name and text.")
        record = _record(row, path.parent, where)
        if record.file_name in first_line:
            first = first_line[record.file_name]
            raise MlxflowError(f"{where}: {record.file_name} was already listed in line {first}.")
        first_line[record.file_name] = number
        has_splits = has_splits or "split" in row
        records.append(record)
    return records, has_splits


def _record(row: dict, root: Path, where: str) -> Record:
    row = dict(row)
    name = row.pop("file_name", None)
    if not isinstance(name, str) or not name:
        raise MlxflowError(f"{where}: file_name is missing.")
    if "\0" in name or "\\" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise MlxflowError(f"{where}: file_name {name!r} must be a path inside the folder.")
    if not (root / name).is_file():
        raise MlxflowError(f"{where}: {name} does not exist.")
    text = row.pop("text", None)
    if not isinstance(text, str) or not text.strip():
        raise MlxflowError(f"{where}: text is missing: each picture needs a caption.")
    texts = row.pop("texts", None) or []
    if not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
        raise MlxflowError(f"{where}: texts must be a list of captions.")
    split = row.pop("split", "train")
    if split not in SPLITS:
        raise MlxflowError(f"{where}: split {split!r} must be one of {', '.join(SPLITS)}.")
    words = {key: row.pop(key, None) for key in ("style", "base", "label")}
    for key, value in words.items():
        if value is not None and not isinstance(value, str):
            raise MlxflowError(f"{where}: {key} must be a text.")
    return Record(
        str(PurePosixPath(name)),
        text.strip(),
        tuple(t.strip() for t in texts),
        split=split,
        extra=row,
        root=root,
        **words,
    )


def _scan(root: Path) -> list[Record]:
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(folder).relative_to(root)
        names += [
            (inside / name).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    records = []
    for name in sorted(names):
        parent = PurePosixPath(name).parent.name
        beside = (root / name).with_suffix(".txt")
        if beside.is_file():
            captions = [line.strip() for line in _read_text(beside).splitlines() if line.strip()]
            if not captions:
                raise MlxflowError(f"{beside}: the caption is empty: write one, or remove the file.")
        else:
            captions = [_words(parent or PurePosixPath(name).stem)]
        records.append(Record(name, captions[0], tuple(captions[1:]), label=parent or None, root=root))
    return records


def _words(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).strip() or name


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise MlxflowError(f"{path}: this file is not UTF-8 text; save it as UTF-8.") from None


def _with_val(records: list[Record]) -> list[Record]:
    if len(records) < VAL_MINIMUM:
        return records
    names = sorted(records, key=lambda record: hashlib.sha256(record.file_name.encode()).digest())
    val = {record.file_name for record in names[: round(VAL_FRACTION * len(records))]}
    return [replace(record, split="val") if record.file_name in val else record for record in records]
