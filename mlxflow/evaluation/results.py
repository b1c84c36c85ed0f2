"""The folder of a result: eval.json, answers.jsonl, index.html, a PNG sheet for each part, pictures/.

Another result is never lost by accident: a folder that holds the numbers of other weights, data or settings is
refused, while parts that are measured later join those of before.
"""

import io
import json
import os
import secrets
from pathlib import Path

from mlxflow.errors import MlxflowError
from mlxflow.evaluation import report
from mlxflow.evaluation.evaluate import PARTS, Evaluation
from mlxflow.sampling.output import open_folder

NUMBERS, ANSWERS, PAGE = "eval.json", "answers.jsonl", "index.html"


def start(out: Path, identity: dict, force: bool = False) -> dict:
    """The result so far: the identity, and the parts that `out` already holds of the same identity.

    Raises MlxflowError if it holds another result and not `force`.
    """
    try:
        before = json.loads((out / NUMBERS).read_text(encoding="utf-8"))
        same = all(before.get(key) == value for key, value in identity.items())
    except FileNotFoundError:
        return dict(identity)
    except (OSError, ValueError, AttributeError):
        same = False
    if same:
        return before
    if not force:
        raise MlxflowError(f"{out / NUMBERS} holds the result of other weights, data or settings: choose another "
                           "folder with --out, or replace it with --force.")
    return dict(identity)


def write_numbers(out: Path, result: dict) -> None:
    """eval.json, its parts in their order."""
    order = [key for key in result if key not in (*PARTS, "sweep")] + [*PARTS, "sweep"]
    text = json.dumps({key: result[key] for key in order if key in result}, indent=1, ensure_ascii=False)
    _write(out / NUMBERS, (text + "\n").encode())


def write_pages(out: Path, name: str, result: dict, evaluation: Evaluation) -> None:
    """The page, the sheets and answers.jsonl."""
    size = evaluation.pipeline.model.image_size
    lines = [json.dumps({"part": part} | answer, ensure_ascii=False) + "\n"
             for part, shown in evaluation.shown.items() for answer in shown.answers()]
    _write(out / ANSWERS, "".join(lines).encode())
    for part, shown in evaluation.shown.items():
        file = io.BytesIO()
        report.sheet(shown, size).save(file, "PNG", optimize=True)
        _write(out / f"{part}.png", file.getvalue())
    _write(out / PAGE, report.page(f"How well does {name} draw?", result, evaluation.shown, size).encode())


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    open_folder(path.parent)
    partial = path.parent / f".{secrets.token_hex(8)}.partial"
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise MlxflowError(f"{path} could not be written: {error.strerror}.") from None
    finally:
        partial.unlink(missing_ok=True)
