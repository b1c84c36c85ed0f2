"""Compositions that training never shows (data/compose.py keeps one in eight from it), as questions with a right answer.

They are the same for every model: all follows from the folder. What the pictures of the right answers are is written
into a folder, so that they are records like any other.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from mlxflow.data.compose import Composer
from mlxflow.data.folder import Record
from mlxflow.data.images import load_all
from mlxflow.evaluation.questions import Question, ordered
from mlxflow.sampling.output import open_folder

# Of each kind; and how many draws may be spent on one of them.
EACH, _DRAWS = 32, 60


def composed(records: list[Record], size: int, folder: Path, each: int = EACH) -> list[Question]:
    """At most `each` unseen compositions of every kind that these training records allow; the kind is the group.

    The pictures, `size` pixels wide, are written into `folder`. Raises MlxflowError if it cannot be written.
    """
    composer = Composer(records, load_all(records, size))
    asked, known = [], set()
    open_folder(folder)
    for kind in dict.fromkeys(composer.kinds):
        generator, found = np.random.default_rng(0), 0
        for _ in range(each * _DRAWS):
            if found == each:
                break
            picture, caption, seen = composer.attempt(kind, generator)
            if seen is False and not known & {caption, picture.tobytes()}:
                name = f"{kind}-{found:02}.png"
                Image.fromarray(picture).save(folder / name)
                asked.append(Question(caption, caption, kind, (Record(name, caption, label=kind, root=folder),)))
                known |= {caption, picture.tobytes()}
                found += 1
    return ordered(asked)
