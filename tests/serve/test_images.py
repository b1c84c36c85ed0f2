"""OpenAI's images API, asked by OpenAI's own client."""

import asyncio
import base64
import io
import json
import threading
from functools import partial

import numpy as np
import openai
import pytest
from PIL import Image

from mlxflow import __version__
from mlxflow.sampling.pipeline import digest
from mlxflow.sampling.resize import resized
from tests.serve.conftest import PATIENCE, program, serving, until
from tests.serve.slow import SlowPipeline


def client_of(server, token="unused", **options) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{server.address}/v1", api_key=token, max_retries=0, timeout=PATIENCE, **options
    )


@pytest.fixture(scope="module")
def client(served):
    return client_of(served)


def opened(datum) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(datum.b64_json)))


def test_n_pictures_of_a_seed_are_those_of_the_pipeline(client, pipeline, weights):
    answer = client.images.generate(
        model="tiny",
        prompt="smiling cat",
        n=3,
        size="64x64",
        response_format="b64_json",
        extra_body={"seed": 7, "steps": 3},
    )
    assert [datum.seed for datum in answer.data] == [7, 8, 9] and answer.created > 1.7e9
    assert (answer.size, answer.output_format, answer.background) == ("64x64", "png", "transparent")
    for datum, picture in zip(
        answer.data, pipeline.generate("smiling cat", n=3, seed=7, steps=3), strict=True
    ):
        shown = opened(datum)
        assert shown.mode == "RGBA" and shown.size == (64, 64)
        assert np.array_equal(np.asarray(shown), np.asarray(resized(picture, 64)))
        assert json.loads(shown.text["mlxflow"]) == {
            "prompt": "smiling cat",
            "seed": datum.seed,
            "steps": 3,
            "solver": "heun",
            "guidance": 3.0,
            "guide_until": 0.3,
            "size": 64,
            "weights": digest(weights / "model.safetensors"),
            "version": __version__,
        }


def test_without_a_seed_pictures_differ_and_the_seed_repeats_them(client):
    first, second = (client.images.generate(prompt="cat").data[0] for _ in range(2))
    assert first.seed != second.seed and first.b64_json != second.b64_json
    assert (
        client.images.generate(prompt="cat", extra_body={"seed": first.seed}).data[0].b64_json
        == first.b64_json
    )


@pytest.mark.parametrize(
    "options, kind, mode",
    [
        ({"output_format": "webp"}, "WEBP", "RGBA"),
        ({"output_format": "webp", "output_compression": 40}, "WEBP", "RGBA"),
        ({"output_format": "jpeg"}, "JPEG", "RGB"),
        ({"background": "opaque"}, "PNG", "RGB"),
        ({}, "PNG", "RGBA"),
    ],
)
def test_formats_and_backgrounds(client, options, kind, mode):
    answer = client.images.generate(prompt="cat", size="128x128", **options, extra_body={"seed": 1})
    picture = opened(answer.data[0])
    assert (picture.format, picture.mode, picture.size) == (kind, mode, (128, 128))
    assert answer.background == ("opaque" if mode == "RGB" else "transparent")


def test_qualities_are_steps_and_what_there_is_one_of_is_ignored(client):
    pictures = {
        quality: client.images.generate(
            prompt="cat",
            quality=quality,
            model="gpt-image-1",
            user="me",
            moderation="low",
            extra_body={"seed": 1},
        )
        .data[0]
        .b64_json
        for quality in ("low", "medium", "high", "auto")
    }
    assert len(set(pictures.values())) == 3 and pictures["auto"] == pictures["medium"]
    steps = (
        client.images.generate(prompt="cat", extra_body={"seed": 1, "steps": 32, "guidance": None})
        .data[0]
        .b64_json
    )
    assert (
        opened(type("", (), {"b64_json": steps})).tobytes()
        == opened(type("", (), {"b64_json": pictures["high"]})).tobytes()
    )


@pytest.mark.parametrize(
    "options, param, says",
    [
        ({"n": 11}, "n", "between 1 and 10"),
        ({"n": 0}, "n", "between 1 and 10"),
        ({"n": True}, "n", "whole number"),
        ({"size": "4096x4096"}, "size", "1024x1024"),
        ({"size": "64x128"}, "size", "64x64"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"quality": "ultra"}, "quality", "high"),
        ({"output_format": "jpeg", "background": "transparent"}, "background", "transparency"),
        ({"extra_body": {"steps": 65}}, "steps", "between 1 and 64"),
        ({"extra_body": {"guidance": "x"}}, "guidance", "number"),
        ({"extra_body": {"guidance": 1e9}}, "guidance", "between 0 and 10"),
        ({"extra_body": {"seed": -1}}, "seed", "whole number"),
        ({"extra_body": {"seed": 0.5}}, "seed", "whole number"),
        ({"extra_body": {"colour": "red"}}, "colour", "Unknown"),
        ({"prompt": ""}, None, "empty"),
        ({"prompt": "x" * 1001}, None, "1,001 characters"),
        ({"prompt": "\u7b11\u8138"}, None, "no English word"),
        ({"prompt": ["cat"]}, "prompt", "text"),
        ({"prompt": None}, "prompt", "missing"),
        ({"stream": True, "n": 2}, "n", "one picture"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_object(client, options, param, says):
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(**{"prompt": "cat", **options})
    error = refused.value
    assert error.status_code == 400 and error.type == "invalid_request_error" and error.param == param
    assert says in error.body["message"] and error.body["message"].endswith(".")


@pytest.mark.parametrize(
    "body, status",
    [
        (b"{", 400),
        (b"[1]", 400),
        (b"\xff", 400),
        (b"[" * 60_000, 400),
        (b'{"prompt": "cat", "guidance": NaN}', 400),
        (b"", 400),
    ],
)
def test_a_body_that_is_no_object_is_an_error_object(served, body, status):
    answer = served.post("/v1/images/generations", body)
    assert answer.status == status and answer.error["type"] == "invalid_request_error"
    assert served.post("/v1/images/generations", b"prompt=cat", Content_Type="text/plain").status == 415


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "mlxflow"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("dall-e/3")
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}])


def test_a_stream_has_estimates_and_then_the_picture(client):
    whole = client.images.generate(prompt="cat", extra_body={"seed": 3})
    events = list(client.images.generate(prompt="cat", stream=True, partial_images=2, extra_body={"seed": 4}))
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_generation.completed" and set(kinds[:-1]) <= {"image_generation.partial_image"}
    assert [event.partial_image_index for event in events[:-1]] == list(range(len(events) - 1))
    assert (
        events[-1].b64_json == client.images.generate(prompt="cat", extra_body={"seed": 4}).data[0].b64_json
    )
    (event,) = client.images.generate(prompt="cat", stream=True, extra_body={"seed": 3})
    assert event.b64_json == whole.data[0].b64_json
    with pytest.raises(openai.APIError, match="no English word"):
        list(client.images.generate(prompt="\u7b11\u8138", stream=True))


def test_the_async_client(served, client):
    async def ask():
        async with openai.AsyncOpenAI(
            base_url=f"{served.address}/v1", api_key="unused", max_retries=0
        ) as asynchronous:
            wanted = [
                asynchronous.images.generate(prompt="cat", extra_body={"seed": seed}) for seed in range(4)
            ]
            return await asyncio.gather(*wanted)

    answers = [answer.data[0].b64_json for answer in asyncio.run(ask())]
    assert answers == [
        datum.b64_json for datum in client.images.generate(prompt="cat", n=4, extra_body={"seed": 0}).data
    ]


def test_a_full_queue_is_a_rate_limit_and_a_client_that_retries_gets_its_picture():
    slow = SlowPipeline()
    with serving(lambda: slow, queue=1) as server:
        patient = client_of(server)
        waiting = threading.Thread(
            target=partial(patient.images.generate, prompt="cat", extra_body={"seed": 1})
        )
        waiting.start()
        until(slow.waiting.is_set, "the first step")
        with pytest.raises(openai.RateLimitError) as refused:
            client_of(server).images.generate(prompt="cat")
        error = refused.value
        assert (
            error.type == "rate_limit_error" and error.code == "rate_limit_exceeded" and "busy" in str(error)
        )
        assert int(error.response.headers["retry-after"]) >= 1
        slow.free = True
        slow.allow(100)
        waiting.join(PATIENCE)
        assert client_of(server).with_options(max_retries=5).images.generate(prompt="cat").data


def test_a_client_that_hangs_up_frees_its_place():
    slow = SlowPipeline()
    with serving(lambda: slow, queue=1) as server:
        with pytest.raises(openai.APITimeoutError):
            client_of(server).with_options(timeout=0.5).images.generate(prompt="cat", extra_body={"seed": 1})
        until(lambda: server.worker._jobs and server.worker._jobs[0].error, "the job to be given up")
        slow.free = True
        slow.allow(100)
        assert client_of(server).images.generate(prompt="dog", extra_body={"seed": 2}).data[0].seed == 2
        assert server.worker.counts["cancelled"] == 1 and slow.closed == [1]


def test_the_token_is_the_api_key():
    token = "a-token-of-some-length"
    with serving(lambda: SlowPipeline(free=True), host="0.0.0.0", token=token) as server:
        assert client_of(server, token).images.generate(prompt="cat").data
        with pytest.raises(openai.AuthenticationError) as refused:
            client_of(server, "another-token-of-it").images.generate(prompt="cat")
        assert refused.value.code == "invalid_api_key"


def test_a_bug_is_a_server_error_and_the_next_picture_comes(caplog):
    with serving(lambda: SlowPipeline(free=True)) as server:
        with pytest.raises(openai.InternalServerError) as failed:
            client_of(server).images.generate(prompt="fail")
        assert failed.value.type == "server_error" and "ZeroDivisionError" not in str(failed.value)
        assert "ZeroDivisionError" in caplog.text
        assert client_of(server).images.generate(prompt="cat").data


def test_the_shipped_weights_are_what_it_is_for():
    with program("--port", "0") as (server, *_):
        (datum,) = (
            client_of(server).images.generate(prompt="red heart", extra_body={"seed": 1, "steps": 8}).data
        )
    pixels = np.asarray(opened(datum).convert("RGBA"), np.float32)
    red, green, blue = (pixels[..., :3] * pixels[..., 3:] / 255).sum((0, 1)) / pixels[..., 3].sum()
    assert pixels.shape == (256, 256, 4) and red > 1.3 * max(green, blue)
