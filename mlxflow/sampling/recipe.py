"""What a picture was made from, as its metadata say it, and how to read that back and change a part of it.

    one picture    {"prompt", "seed", "variations"?, ...}
    a sheet        {"pictures": [{"prompt", "seed", "variations"?}, ...], "columns", "captions", ...}

and for both steps, solver, guidance, guide_until?, negative?, background?, size?, for?, weights (SHA-256 of the file),
version.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from mlxflow.errors import MlxflowError
from mlxflow.sampling import metadata
from mlxflow.sampling.formats import SUFFIXES
from mlxflow.sampling.pipeline import MAX_PICTURES, MAX_SEED, Request, check_prompt

MAX_REQUESTS = 10_000


def parse_seeds(text: str) -> list[int]:
    """ "7", "1,2,5-9": seeds in the order given. Raises MlxflowError for anything else, or too many."""
    seeds: list[int] = []
    for part in str(text).split(","):
        found = re.fullmatch(r"\s*(\d{1,19})\s*(?:-\s*(\d{1,19}))?\s*", part)
        if not found:
            raise MlxflowError(
                f"The seed must be a number from 0 on, or several as in 1,2,5-9; not '{text}'."
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise MlxflowError(f"The seeds {part.strip()} run backwards: give {last}-{first}.")
        if last > MAX_SEED - MAX_PICTURES:
            raise MlxflowError(f"The seed must be between 0 and {MAX_SEED - MAX_PICTURES}, not {last}.")
        if len(seeds) + last - first >= MAX_PICTURES:
            raise MlxflowError(f"'{text}' is more than {MAX_PICTURES} seeds.")
        seeds += range(first, last + 1)
    return seeds


def described(request: Request) -> dict:
    """A request as metadata."""
    made = {"prompt": request.prompt, "seed": request.seed}
    return made | ({"variations": [list(pair) for pair in request.variations]} if request.variations else {})


def _request(made: dict) -> Request:
    prompt, seed = made["prompt"], made["seed"]
    pairs = tuple((float(strength), number) for strength, number in made.get("variations", ()))
    whole = type(seed) is int and all(type(number) is int and number >= 0 for _, number in pairs)
    if (
        not isinstance(prompt, str)
        or not whole
        or not 0 <= seed <= MAX_SEED
        or not all(0 < strength <= 1 for strength, _ in pairs)
    ):
        raise ValueError
    check_prompt(prompt)
    return Request(prompt, seed, pairs)


@dataclass(frozen=True)
class Recipe:
    """What is known of a picture that is to be repeated: its requests, and the rest of its metadata."""

    requests: list[Request]
    made: dict
    suffix: str

    @property
    def sheet(self) -> bool:
        return "pictures" in self.made

    def get(self, name: str, kind: type | tuple[type, ...], default=None):
        """A value of the metadata, if it is there and of its type."""
        value = self.made.get(name)
        return value if isinstance(value, kind) and not isinstance(value, bool) else default

    @property
    def columns(self) -> int:
        return max(1, self.get("columns", int, 1))


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a picture's metadata. Raises MlxflowError when it holds none that `generate` can
    repeat.
    """
    made = metadata.read(path)
    if made is None:
        raise MlxflowError(
            f"{path} does not say what made it: only pictures with mlxflow's metadata can be repeated "
            "(`mlxflow edit` takes any picture)."
        )
    if "edit" in made:
        raise MlxflowError(
            f"{path} was made by `mlxflow edit {made['edit']}` from another picture: it cannot be "
            "repeated from words alone."
        )
    try:
        rows = made["pictures"] if "pictures" in made else [made]
        if not 1 <= len(rows) <= MAX_REQUESTS:
            raise ValueError
        requests = [_request(row) for row in rows]
    except (KeyError, TypeError, ValueError, AttributeError, MlxflowError):
        raise MlxflowError(f"The metadata of {path} are not those of `mlxflow generate`.") from None
    suffix = Path(path).suffix.lower()
    return Recipe(requests, made, suffix if suffix in SUFFIXES and "trajectory" not in made else ".png")
