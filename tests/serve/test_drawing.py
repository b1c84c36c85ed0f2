"""What the page asks for: drafts and fine pictures as they come, and files of them."""

import base64
import io
import json
import threading

import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from mlxflow import weights as stored
from mlxflow.networks import build, few_step
from mlxflow.sampling.pipeline import Pipeline
from mlxflow.sampling.resize import resized
from mlxflow.sampling.work import Wishes, work_for
from mlxflow.serve.drawing import DRAFT_STEPS
from tests.sampling import tiny
from tests.serve.conftest import serving, until
from tests.serve.slow import SlowPipeline


def lines(answer) -> list[dict]:
    assert answer.status == 200 and answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.content.splitlines()]


def opened(png: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(png)))


def test_drafts_come_before_fine_pictures_and_those_are_the_pipelines(served, pipeline):
    asked = {"prompt": "red cat", "seed": 11, "count": 4, "steps": 6, "guidance": 2}
    *events, last = lines(served.post("/api/draw", asked))
    assert last == {"done": True}
    done = [(event["stage"], event["picture"]) for event in events if event["t"] == 1]
    assert done[0] == ("draft", 0) and sorted(done[:4]) == [("draft", i) for i in range(4)]
    assert done[4:] == [("final", i) for i in range(4)]
    fine = [event for event in events if event["stage"] == "final" and event["t"] == 1]
    drafts = [event for event in events if event["stage"] == "draft" and event["t"] == 1]
    settings = {"guidance": 2, "steps": 6}
    for event, draft, picture in zip(
        fine, drafts, pipeline.generate("red cat", n=4, seed=11, **settings), strict=True
    ):
        assert np.array_equal(opened(event["png"]), resized(picture, 256))
        assert not np.array_equal(opened(draft["png"]), picture), "a draft is another picture"
    alone = pipeline.generate("red cat", seed=11, steps=DRAFT_STEPS, solver="euler", guidance=2)[0]
    assert np.array_equal(opened(drafts[0]["png"]), alone)


def test_what_was_drawn_before_comes_at_once_without_drafts(served):
    asked = {"prompt": "blue dog", "seed": 3, "count": 2, "steps": 5}
    first, again = (lines(served.post("/api/draw", asked)) for _ in range(2))
    assert [(e["stage"], e["t"]) for e in again[:-1]] == [("final", 1), ("final", 1)]
    assert [e["png"] for e in again[:-1]] == [
        e["png"] for e in first[:-1] if e["stage"] == "final" and e["t"] == 1
    ]


@pytest.mark.parametrize(
    "body, param",
    [
        ({}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "cat", "count": 5}, "count"),
        ({"prompt": "cat", "steps": 65}, "steps"),
        ({"prompt": "cat", "guidance": 11}, "guidance"),
        ({"prompt": "cat", "seed": 2**63}, "seed"),
        ({"prompt": "cat", "visitor": "x" * 65}, "visitor"),
        ({"prompt": "cat", "visitor": {}}, "visitor"),
        ({"prompt": "cat", "turn": "x"}, "turn"),
    ],
)
def test_limits_of_a_drawing(served, body, param):
    answer = served.post("/api/draw", body)
    assert answer.status == 400 and answer.error["param"] == param


def test_a_prompt_without_a_word_is_the_last_line(served):
    assert lines(served.post("/api/draw", {"prompt": "\u7b11\u8138"}))[-1]["error"]["message"].startswith(
        "There is no English"
    )


def test_a_newer_request_of_the_visitor_ends_the_older():
    slow = SlowPipeline()
    with serving(lambda: slow) as server:
        answers = {}

        def ask(seed):
            answers[seed] = server.post("/api/draw", {"prompt": "cat", "seed": seed, "visitor": "me"})

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in (10, 20)]
        threads[0].start()
        until(slow.waiting.is_set, "the first step")
        threads[1].start()
        until(lambda: len(server.worker._jobs) == 2, "the second job")
        slow.free = True
        slow.allow(1000)
        for thread in threads:
            thread.join(60)
        assert lines(answers[10])[-1]["error"]["code"] == "cancelled" and lines(answers[20])[-1] == {
            "done": True
        }
        assert {step[0] for step in slow.steps if step[-1] > 0}.isdisjoint(range(10, 14))


@pytest.mark.parametrize(
    "kind, size, form, pixels", [("png", 64, "PNG", 64), ("webp", 128, "WEBP", 128), ("png", 512, "PNG", 512)]
)
def test_files_of_a_picture(served, pipeline, kind, size, form, pixels):
    answer = served.get(
        f"/api/picture?prompt=red+cat&seed=5&steps=4&guidance=2.5&kind={kind}&size={size}&download=1"
    )
    assert answer.status == 200 and answer.headers["content-type"] == f"image/{kind}"
    assert answer.headers["content-disposition"] == f'attachment; filename="red-cat-5.{kind}"'
    picture = Image.open(io.BytesIO(answer.content))
    expected = resized(pipeline.generate("red cat", seed=5, steps=4, guidance=2.5)[0], pixels)
    assert picture.format == form and np.array_equal(visible(picture), visible(expected))


@pytest.mark.parametrize(
    "chat, kind, pixels, most", [("slack", "png", 128, 128_000), ("sticker", "webp", 512, 100_000)]
)
def test_files_for_chats(served, chat, kind, pixels, most):
    answer = served.get(f"/api/picture?prompt=red+cat&seed=5&steps=4&for={chat}&download=1")
    assert answer.headers["content-disposition"] == f'attachment; filename="red-cat-5.{kind}"'
    assert len(answer.content) < most and Image.open(io.BytesIO(answer.content)).size == (pixels, pixels)


@pytest.mark.parametrize("how", ["kind=png&size=256", "kind=webp&size=128", "kind=svg&size=64", "for=slack"])
def test_generate_repeats_a_file_bit_for_bit(served, weights, tmp_path, how):
    answer = served.get(f"/api/picture?prompt=red+cat&seed=5&steps=3&guidance=2.5&{how}&download=1")
    suffix = answer.headers["content-disposition"].rpartition(".")[2].strip('"')
    (tmp_path / f"a.{suffix}").write_bytes(answer.content)
    again = Wishes(like=tmp_path / f"a.{suffix}", out=str(tmp_path / f"b.{suffix}"), weights=str(weights))
    work = work_for(again)
    work.load()
    work.run(lambda *step: None, lambda path: None)
    assert (tmp_path / f"b.{suffix}").read_bytes() == answer.content


def visible(picture: Image.Image) -> np.ndarray:
    """RGBA with the hidden colours of transparent pixels, which a lossless WebP drops, at zero."""
    pixels = np.asarray(picture.convert("RGBA")).copy()
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def test_svg_is_drawn_in_paths_and_has_no_script(served):
    answer = served.get("/api/picture?prompt=%3Cscript%3Ered+cat&seed=5&steps=2&kind=svg")
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert b"<path" in answer.content and b"<script" not in answer.content


@pytest.mark.parametrize(
    "query, param",
    [
        ("", "prompt"),
        ("prompt=cat&kind=exe", "kind"),
        ("prompt=cat&size=4096", "size"),
        ("prompt=cat&size=1e9", "size"),
        ("prompt=cat&for=fax", "for"),
        ("prompt=cat&for=", "for"),
        ("prompt=cat&steps=x", "steps"),
        ("prompt=cat&seed=-1", "seed"),
        ("prompt=cat&guidance=nan", "guidance"),
        ("prompt=cat&steps=9999999999999999999999999", "steps"),
        ("prompt=cat&guidance=inf", "guidance"),
    ],
)
def test_limits_of_a_file(served, query, param):
    answer = served.get(f"/api/picture?{query}")
    assert answer.status == 400 and answer.error["param"] == param


def test_file_names_are_harmless(served):
    answer = served.get(
        "/api/picture?prompt=../%22%0d%0aX: cat%C3%A9&seed=1&steps=1&download=1".replace(" ", "+")
    )
    name = answer.headers["content-disposition"].partition("filename=")[2].strip('"')
    assert (
        answer.status == 200
        and name.endswith("-1.png")
        and not set(name) & set('/\\"\r\n')
        and "x" not in answer.headers
    )


def test_about_health_and_metrics(served):
    about = served.get("/api/about").json
    assert about["model"] == "tiny" and about["steps"] == 16 and about["svg"] is True
    health = served.get("/health").json
    assert health["status"] == "ok" and health["queue"] == 16
    served.post("/api/draw", {"prompt": "cat", "seed": 77, "steps": 1, "count": 1})
    text = served.get("/metrics").content.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values["mlxflow_up"] == "1" and float(values["mlxflow_pictures_total"]) >= 1
    assert float(values['mlxflow_requests_total{route="/api/draw",status="200"}']) >= 1
    assert (
        values['mlxflow_first_picture_seconds_bucket{le="+Inf"}']
        == values["mlxflow_first_picture_seconds_count"]
    )
    assert {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")} >= {
        "mlxflow_jobs_total",
        "mlxflow_jobs_waiting",
        "mlxflow_first_picture_seconds",
    }


def test_health_without_a_worker():
    with serving(lambda: SlowPipeline(free=True)) as server:
        server.worker.stop()
        assert server.get("/health").status == 503
        answer = server.post("/v1/images/generations", {"prompt": "cat"})
        assert answer.status == 503 and answer.error["code"] == "stopping"


def test_what_is_not_there_is_an_error_object(served):
    assert served.get("/nowhere").error["code"] == "not_found"
    assert served.get("/../pyproject.toml").status == 404 and served.get("/%2e%2e/app.py").status == 404
    assert served.get("/api/draw").status == 405


def test_a_few_step_model_has_no_guidance_to_choose_and_needs_no_drafts(tmp_path):
    config = tiny.config()
    config |= {
        "model": few_step(config["model"]),
        "process": config["process"] | {"few_step": {"guidance": 2.0}},
    }
    arrays = dict(tree_flatten(build(config["model"]).parameters()))
    stored.save(tmp_path / "few", arrays, config, tiny.WORDS)
    pipeline = Pipeline.load(tmp_path / "few")
    with serving(lambda: Pipeline.load(tmp_path / "few")) as server:
        about = server.get("/api/about").json
        assert about.items() >= {"steps": 4, "max_steps": 32, "guidance": 1.0, "max_guidance": None}.items()
        asked = {"prompt": "red cat", "seed": 1, "count": 2}
        events = lines(server.post("/api/draw", asked))[:-1]
        assert {event["stage"] for event in events} == {"final"}
        (expected,) = pipeline.generate("red cat", seed=1, steps=4, solver="shortcut", guidance=1.0)
        done = next(event for event in events if event["t"] == 1)
        assert done["picture"] == 0 and np.array_equal(opened(done["png"]), resized(expected, 256))
        stages = [event["stage"] for event in lines(server.post("/api/draw", asked | {"steps": 8}))[:-1]]
        assert stages[0] == "draft" and stages[-1] == "final"
        answer = server.post("/api/draw", asked | {"guidance": 3})
        assert answer.status == 400 and "built in" in answer.error["message"]
        assert server.post("/v1/images/generations", {"prompt": "cat", "quality": "high"}).status == 200
