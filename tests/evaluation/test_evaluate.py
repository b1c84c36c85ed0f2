"""The parts of the measure on a tiny folder: with a model that draws the real pictures, all numbers are known."""

import json

import numpy as np
import pytest

from mlxflow.data.compose import Composer
from mlxflow.data.images import load_all
from mlxflow.errors import MlxflowError
from mlxflow.evaluation import report, results
from mlxflow.evaluation.compositions import composed
from mlxflow.evaluation.evaluate import PARTS, Evaluation
from mlxflow.sampling.pipeline import Settings
from tests.evaluation.tiny_folder import make_folder

FEW = Settings(steps=1, solver="euler", guidance=2.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("evaluate") / "emoji")


@pytest.fixture
def evaluation(pipeline, data, tmp_path):
    return Evaluation(pipeline, data, tmp_path / "pictures", FEW)


def drawn_by(monkeypatch, evaluation, draw):
    """Pictures come from draw(question); prompts that name nothing real get noise."""
    questions = [*evaluation.asked.names, *evaluation.asked.prompts, *evaluation.asked.combinations]
    by_prompt = {question.prompt: question for question in questions}
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    monkeypatch.setattr(evaluation.drawing, "pictures", lambda prompts, count, settings, progress: np.stack(
        [draw(by_prompt[prompt]) if prompt in by_prompt else noise for prompt in prompts[:count]]))


def real(question):
    return load_all(question.right[:1], 16)[0]


def test_a_model_that_draws_the_right_pictures_scores_100(monkeypatch, evaluation):
    drawn_by(monkeypatch, evaluation, real)
    for part in ("names", "prompts"):
        found = evaluation.part(part)
        assert found["n"] == 10 and found["R@1"]["value"] == found["R@5"]["value"] == 100
        assert sum(group["n"] for group in found["groups"].values()) == 10
    found = evaluation.combinations()
    assert found["n"] == 1 and found["R@1"]["value"] == 100 and found["chance"] == 16.7
    assert found["mse"] == 0 < found["mse_of_nearest_training_variant"]
    assert found["nearer_than_training_variant"]["value"] == 100
    assert evaluation.novel()["copies"] == 0


def test_a_model_that_draws_the_person_without_the_tone_fails_combinations_only(monkeypatch, evaluation):
    bases = {record.extra["codepoints"]: record for record in evaluation.folder.records}
    drawn_by(monkeypatch, evaluation, lambda q: load_all([bases[q.right[0].base]], 16)[0])
    assert evaluation.names()["R@1"]["value"] == 100
    found = evaluation.combinations()
    assert found["R@1"]["value"] == 0 and found["nearer_than_training_variant"]["value"] == 0
    assert found["mse"] >= found["mse_of_nearest_training_variant"]


def test_compositions_are_found_by_a_model_that_puts_together_and_missed_by_one_that_leaves_a_part_out(
        monkeypatch, evaluation, data, tmp_path):
    asked = composed(evaluation._trained(), 16, tmp_path / "c")
    drawn = {question.prompt: load_all(question.right, 16)[0] for question in asked}
    assert len(asked) > 20 and {"recolour", "pair", "count"} <= {question.group for question in asked}
    monkeypatch.setattr(evaluation.drawing, "pictures",
                        lambda prompts, count, *_: np.stack([drawn[prompt] for prompt in prompts[:count]]))
    found = evaluation.compositions()
    assert found["n"] == len(asked) and found["R@1"]["value"] > 95  # two colours may look alike at 16 pixels
    page = report.page("T", evaluation.identity() | {"compositions": found}, evaluation.shown, 16)
    assert page.count("<figure") == len(asked)
    apart = {record.text: load_all([record], 16)[0] for record in evaluation.asked.gallery}
    monkeypatch.setattr(evaluation.drawing, "pictures", lambda prompts, count, *_: np.stack(
        [next((p for name, p in apart.items() if name.split()[-1] in prompt), next(iter(apart.values())))
         for prompt in prompts[:count]]))
    assert evaluation.compositions()["R@1"]["value"] < 20


def test_compositions_are_the_same_every_time_and_training_never_shows_them(evaluation, tmp_path):
    one, two = (composed(evaluation._trained(), 16, tmp_path / n, each=4) for n in ("a", "b"))
    assert [q.prompt for q in one] == [q.prompt for q in two] and len({q.prompt for q in one}) == len(one)
    assert all(q.right[0].path.read_bytes() == other.right[0].path.read_bytes() for q, other in zip(one, two))
    records = evaluation._trained()
    composer, generator = Composer(records, load_all(records, 16)), np.random.default_rng(9)
    shown = {composer.draw(generator)[1] for _ in range(600)}
    # The same words can be drawn in more than one way ("apple with a hat", in three hats): not most of them.
    assert sum(question.prompt in shown for question in one) <= len(one) / 4


def test_a_model_that_draws_training_pictures_for_novel_prompts_copies(monkeypatch, evaluation):
    picture = load_all(evaluation.folder.split("train")[:1], 16)[0]
    monkeypatch.setattr(evaluation.drawing, "pictures", lambda prompts, count, *_: np.stack([picture] * len(prompts)))
    found = evaluation.novel()
    assert found["copies"] == found["n"] == 60 and found["median_distance"] < 2e-3
    assert {row["nearest"] for row in found["prompts"]} == {evaluation.folder.split("train")[0].text}


def test_random_weights_give_the_same_result_twice_and_a_limit_asks_less(pipeline, data, tmp_path):
    made = []
    for name in ("a", "b"):
        evaluation = Evaluation(pipeline, data, tmp_path / name, FEW, limit=4)
        made.append(evaluation.identity() | {part: evaluation.part(part) for part in PARTS})
    assert json.dumps(made[0]) == json.dumps(made[1])
    assert [made[0][part]["n"] for part in PARTS[:5]] == [4, 4, 1, 4, 4]


def test_the_identity_tells_everything_apart_that_changes_the_numbers(pipeline, data, tmp_path):
    def of(settings=FEW, **options):
        return json.dumps(Evaluation(pipeline, data, tmp_path / "p", settings, **options).identity())

    assert of() == of()
    others = [of(Settings(2, "euler", 2.0)), of(Settings(1, "heun", 2.0)), of(Settings(1, "euler", 3.0)), of(seed=1),
              of(limit=3)]
    other_data = make_folder(tmp_path / "emoji", size=8)
    others.append(json.dumps(Evaluation(pipeline, other_data, tmp_path / "p", FEW).identity()))
    assert len({of(), *others}) == 7


def test_a_sweep_has_a_row_for_each_setting_once(monkeypatch, pipeline, data, tmp_path):
    evaluation = Evaluation(pipeline, data, tmp_path / "p", Settings(steps=16, guidance=3.0), limit=2)
    drawn_by(monkeypatch, evaluation, real)
    rows = evaluation.sweep()
    assert [(row["steps"], row["guidance"]) for row in rows] == [
        (4, 3), (8, 3), (16, 3), (32, 3), (16, 1), (16, 2), (16, 4), (16, 5), (16, 6)]
    assert all(row[part]["R@1"]["value"] == 100 for row in rows for part in ("names", "prompts", "combinations"))
    assert not evaluation.shown


def test_a_folder_of_ones_own_has_names_alone(pipeline, tmp_path):
    from tests.evaluation.test_floor import make_folder as plain_folder

    evaluation = Evaluation(pipeline, plain_folder(tmp_path / "f", ["cat", "cat", "dog"], size=16), tmp_path / "p", FEW)
    assert evaluation.names()["n"] == 2
    assert evaluation.prompts() is None and evaluation.combinations() is None


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_1_is_refused(pipeline, data, tmp_path, limit):
    with pytest.raises(MlxflowError, match="1 or more"):
        Evaluation(pipeline, data, tmp_path / "p", FEW, limit=limit)


def test_page_and_sheets_show_every_question(monkeypatch, evaluation):
    drawn_by(monkeypatch, evaluation, real)
    result = evaluation.identity() | {part: evaluation.part(part) for part in PARTS if part not in ("compositions", "validation")}
    page = report.page("A <title>", result, evaluation.shown, 16)
    assert page.count("<figure") == 10 + 10 + 1 + 60 and "A &lt;title&gt;" in page
    assert page.count("data:image/webp;base64,") == 2 and "http" not in page and "src=" not in page
    assert "100.0 %" in page
    sheet = report.sheet(evaluation.shown["names"], 16)
    assert sheet.mode == "RGB" and sheet.width > 10 * 16
    lines = evaluation.shown["prompts"].answers()
    assert len(lines) == 10 and all(line["rank"] == 0 for line in lines)


def test_sprites_hold_the_pictures_in_their_places():
    import base64
    import io

    from PIL import Image

    colours = np.random.default_rng(0).integers(0, 256, (70, 1, 1, 4), np.uint8)
    colours[..., 3] = 255
    uri = report._sprite(np.broadcast_to(colours, (70, 16, 16, 4)))
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA")).astype(int)
    assert image.shape == (3 * 16, 32 * 16, 4)
    for i in (0, 31, 32, 69):
        y, x = i // 32 * 16 + 8, i % 32 * 16 + 8
        assert np.abs(image[y, x] - colours[i, 0, 0]).max() < 40


def test_another_result_is_not_replaced_and_the_same_one_goes_on(tmp_path):
    identity = {"format": 1, "weights": {"sha256": "a"}}
    assert results.start(tmp_path, identity) == identity
    results.write_numbers(tmp_path, identity | {"prompts": {"n": 1}, "names": {"n": 2}})
    again = results.start(tmp_path, identity)
    assert again["names"] == {"n": 2} and list(again) == ["format", "weights", "names", "prompts"]
    other = identity | {"weights": {"sha256": "b"}}
    with pytest.raises(MlxflowError, match="--force"):
        results.start(tmp_path, other)
    assert results.start(tmp_path, other, force=True) == other
    (tmp_path / results.NUMBERS).write_text("[]")
    with pytest.raises(MlxflowError, match="--force"):
        results.start(tmp_path, identity)
