"""The contact sheet: every picture is on it where it belongs, with ink for its caption."""

import numpy as np
import pytest
from PIL import Image

from mlxflow.data.folder import Record
from mlxflow.data.sheet import GAP, MARKS, PICTURE, contact_sheet, spread
from mlxflow.errors import MlxflowError

COLOURS = [(230, 20, 20), (20, 180, 20), (20, 20, 230), (240, 200, 0), (0, 0, 0)]


@pytest.fixture
def records(tmp_path):
    found = []
    for i, colour in enumerate(COLOURS):
        Image.new("RGBA", (16, 16), (*colour, 255)).save(tmp_path / f"{i}.png")
        found.append(Record(f"{i}.png", f"picture {i}", root=tmp_path))
    return found


def middle(sheet, row, column, top=0):
    return sheet[top + GAP + PICTURE // 2, GAP + column * (PICTURE + GAP) + PICTURE // 2]


def test_pictures_stand_in_rows_with_captions_below(records):
    sheet = np.asarray(contact_sheet(records, columns=3))
    height = (sheet.shape[0] - GAP) // 2
    assert sheet.shape[1] == GAP + 3 * (PICTURE + GAP)
    for i, colour in enumerate(COLOURS):
        assert tuple(middle(sheet, i // 3, i % 3, i // 3 * height)) == colour
        left, below = GAP + i % 3 * (PICTURE + GAP), GAP + i // 3 * height + PICTURE
        assert sheet[below + 2 : below + height - PICTURE, left : left + PICTURE].min() < 128  # ink
    # The sixth place is empty.
    assert (sheet[height + GAP : height + GAP + PICTURE, -PICTURE - GAP :] == 255).all()


def test_long_captions_stay_within_their_column(records):
    long = [Record(r.file_name, "supercalifragilisticexpialidocious " * 9, root=r.root) for r in records[:2]]
    sheet = np.asarray(contact_sheet(long, columns=2))
    gap = sheet[:, GAP + PICTURE + 4 : 2 * GAP + PICTURE - 4]
    assert (gap == 255).all()
    assert sheet.shape[0] < 2 * PICTURE  # cut, not endless


def test_transparent_pixels_show_a_board(tmp_path):
    Image.new("RGBA", (16, 16)).save(tmp_path / "a.png")
    sheet = np.asarray(contact_sheet([Record("a.png", "nothing", root=tmp_path)]))
    inside = sheet[GAP + 20 : GAP + 100, GAP + 20 : GAP + 100]
    assert len(np.unique(inside)) == 2 and inside.min() > 200


def test_what_is_not_for_training_is_marked(records):
    for split, colour in MARKS.items():
        record = Record("0.png", "x", split=split, root=records[0].root)
        assert (np.asarray(contact_sheet([record])) == colour).all(-1).any()
        assert not (np.asarray(contact_sheet(records[:1])) == colour).all(-1).any()


def test_spread_takes_first_and_last_in_order():
    assert spread(list(range(1000)), 5) == [0, 249, 499, 749, 999]
    assert spread([1, 2, 3], 5) == [1, 2, 3]
    assert spread([1, 2, 3], 1) == [1]
    assert len(set(spread(list(range(101)), 100))) == 100
    with pytest.raises(MlxflowError, match="--limit"):
        spread([1], 0)


def test_nothing_to_show_is_said(records):
    with pytest.raises(MlxflowError, match="no pictures"):
        contact_sheet([])
    with pytest.raises(MlxflowError, match="column"):
        contact_sheet(records, columns=0)
