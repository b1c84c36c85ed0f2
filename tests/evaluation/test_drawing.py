"""Pictures for evaluation do not depend on limits and interruptions, and are drawn once."""

import numpy as np
import pytest

from mlxflow.errors import MlxflowError
from mlxflow.evaluation.drawing import Drawing
from mlxflow.sampling.pipeline import Settings

PROMPTS = [f"{colour} {thing}" for thing in ("cat", "car", "apple", "heart", "dog") for colour in ("red", "blue")]
FEW = Settings(steps=2, guidance=2.0)


@pytest.fixture
def drawing(pipeline, tmp_path):
    return Drawing(pipeline, tmp_path / "pictures")


def test_a_limit_does_not_change_pictures(pipeline, drawing, tmp_path):
    everything = drawing.pictures(PROMPTS, 10, FEW)
    assert everything.shape == (10, 16, 16, 4) and everything.dtype == np.uint8
    assert len({picture.tobytes() for picture in everything}) == 10
    some = Drawing(pipeline, tmp_path / "some").pictures(PROMPTS, 3, FEW)
    assert np.array_equal(some, everything[:3])


def test_pictures_are_the_pipelines(pipeline, drawing):
    made = drawing.pictures(PROMPTS, 2, FEW).astype(int)
    alone = [np.asarray(image).astype(int) for image in pipeline.generate(PROMPTS[:2], steps=2, guidance=2.0)]
    assert np.abs(made - alone).max() <= 1  # another batch may round differently


def test_what_is_there_is_not_drawn_again(drawing, monkeypatch):
    before = drawing.pictures(PROMPTS, 10, FEW)
    monkeypatch.setattr(drawing.pipeline, "stream", None)
    assert np.array_equal(drawing.pictures(PROMPTS, 10, FEW), before)


def test_a_run_that_was_stopped_gives_the_same_pictures(pipeline, drawing, tmp_path):
    class Stop(Exception):
        pass

    def stop(done):
        if done >= 0.9:
            raise Stop

    with pytest.raises(Stop):
        drawing.pictures(PROMPTS, 10, FEW, stop)
    files = set(drawing.folder.glob("*.png"))
    assert 0 < len(files) < 10
    files.pop().unlink()
    whole = Drawing(pipeline, tmp_path / "whole").pictures(PROMPTS, 10, FEW)
    assert np.array_equal(drawing.pictures(PROMPTS, 10, FEW), whole)
    assert len(list(drawing.folder.iterdir())) == 10


def test_every_setting_has_a_picture_of_its_own(pipeline, drawing):
    other = Drawing(pipeline, drawing.folder, seed=1)
    files = {drawing.file("cat", FEW), other.file("cat", FEW), drawing.file("dog", FEW),
             drawing.file("cat", Settings(3, guidance=2.0)), drawing.file("cat", Settings(2, "euler", 2.0)),
             drawing.file("cat", Settings(2, guidance=3.0))}
    assert len(files) == 6


def test_progress_rises_to_1(drawing):
    done = []
    drawing.pictures(PROMPTS, 10, FEW, done.append)
    assert done == sorted(done) and done[0] == 0 and done[-1] == 1


def test_a_broken_picture_has_its_sentence(drawing):
    drawing.pictures(PROMPTS, 1, FEW)
    drawing.file(PROMPTS[0], FEW).write_bytes(b"no picture")
    with pytest.raises(MlxflowError, match="is broken: remove it"):
        drawing.pictures(PROMPTS, 1, FEW)
