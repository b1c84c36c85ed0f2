"""Which requests are answered."""

import contextlib

import pytest

from mlxflow.errors import MlxflowError
from mlxflow.serve.security import MAX_BODY, check_token, is_local, known_host
from tests.serve.conftest import serving
from tests.serve.slow import SlowPipeline

TOKEN = "a-token-of-some-length"


@pytest.mark.parametrize(
    "host, local",
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.7", False),
        ("localhost.evil.example", False),
        ("evil.example", False),
    ],
)
def test_addresses_that_only_this_machine_reaches(host, local):
    assert is_local(host) == local


@pytest.mark.parametrize(
    "header, at_home, abroad",
    [
        ("127.0.0.1:8000", True, True),
        ("localhost:8000", True, True),
        ("LOCALHOST", True, True),
        ("[::1]:8000", True, True),
        ("a.localhost", True, True),
        ("192.168.1.7:8000", False, True),
        ("[fe80::1]", False, True),
        ("laptop:8000", False, True),
        ("laptop.local", False, True),
        ("studio.lan", False, True),
        ("evil.example", False, False),
        ("127.0.0.1.evil.example", False, False),
        ("localhost.evil.example", False, False),
        ("evil.example:127", False, False),
        ("", False, False),
        ("[", False, False),
        ("a@127.0.0.1.example", False, False),
    ],
)
def test_names_that_this_machine_answers_to(header, at_home, abroad, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "laptop")
    assert known_host(header, "127.0.0.1") == at_home
    assert known_host(header, "studio.lan") == abroad


@pytest.mark.parametrize(
    "headers, code",
    [
        ({"Host": "evil.example"}, "wrong_host"),
        ({"Host": "evil.example:{port}"}, "wrong_host"),
        ({"Origin": "https://evil.example"}, "wrong_origin"),
        ({"Origin": "null"}, "wrong_origin"),
        ({"Origin": "http://127.0.0.1:1"}, "wrong_origin"),
        ({"Origin": "http://localhost:{port}"}, "wrong_origin"),
        ({"Sec_Fetch_Site": "cross-site"}, "wrong_origin"),
        ({"Sec_Fetch_Site": "same-site"}, "wrong_origin"),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, "wrong_origin"),
    ],
)
def test_other_sites_are_refused_everywhere(served, headers, code):
    headers = {name: value.format(port=served.port) for name, value in headers.items()}
    for answer in (
        served.get("/api/about", **headers),
        served.get("/api/picture?prompt=cat", **headers),
        served.post("/v1/images/generations", {"prompt": "cat"}, **headers),
        served.post("/api/draw", {"prompt": "cat"}, **headers),
    ):
        assert answer.status == 403 and answer.error["code"] == code


def test_its_own_page_and_programs_are_not(served):
    for headers in (
        {},
        {"Origin": served.address},
        {"Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
        {"Host": f"localhost:{served.port}", "Origin": f"http://localhost:{served.port}"},
    ):
        assert served.get("/api/about", **headers).status == 200
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert served.get("/", **link).status == 200, "a link on another site may open the page"


def test_every_answer_tells_the_browser_to_load_nothing_from_elsewhere(served):
    for answer in (
        served.get("/"),
        served.get("/api/about"),
        served.get("/nowhere"),
        served.get("/", Host="evil.example"),
    ):
        policy = answer.headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        )
        assert "http" not in policy and answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "body, headers",
    [
        (b"x" * (MAX_BODY + 1), {}),
        (iter([b"x" * 1000] * (MAX_BODY // 1000 + 2)), {}),
        (b"{}", {"Content_Length": "99999999999"}),
    ],
)
def test_a_body_that_is_too_long_is_not_read(served, body, headers):
    answer = served.post("/v1/images/generations", body, **headers)
    assert answer.status == 413 and answer.error["code"] == "too_large"
    assert served.get("/health").status == 200


def test_a_length_that_is_no_length_ends_the_connection(served):
    """The HTTP library refuses it and hangs up; what was sent meanwhile may reset the connection before the answer is
    read."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        assert served.post("/v1/images/generations", b"{}", Content_Length="0" * 400 + "2").status == 400
    assert served.get("/health").status == 200


@pytest.fixture(scope="module")
def abroad():
    with serving(lambda: SlowPipeline(free=True), host="0.0.0.0", token=TOKEN) as server:
        yield server


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Cookie": "mlxflow_token=wrong"},
        {"Authorization": "Bearer t\u00f6ken"},
        {"Cookie": 'x\x01=;;="'},
    ],
)
def test_without_the_token_there_is_only_health(abroad, headers):
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    for path in (
        "/",
        "/app.js",
        "/api/about",
        "/metrics",
        "/v1/models",
        "/?token=wrong",
        f"/api/about?token={TOKEN}",
    ):
        answer = abroad.get(path, **headers)
        assert answer.status == 401 and answer.error["code"] == "invalid_api_key"
        assert TOKEN not in str(answer)
    assert abroad.get("/health", **headers).status == 200


def test_the_token_opens_the_server_to_programs_and_pages(abroad):
    assert abroad.get("/api/about", Authorization=f"Bearer {TOKEN}").status == 200
    answer = abroad.get(f"/?token={TOKEN}")
    assert answer.status == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert abroad.get("/", Cookie=cookie.partition(";")[0]).status == 200


def test_a_server_for_others_answers_to_addresses_but_not_to_any_name(abroad):
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert abroad.get("/api/about", Host="192.168.1.7:8000", **bearer).status == 200
    assert abroad.get("/api/about", Host="evil.example", **bearer).status == 403


@pytest.mark.parametrize(
    "token",
    [
        "",
        "short",
        "a token with some spaces",
        "umlaut-\u00e4-umlaut-\u00e4",
        "semi;colon;in;the;token",
        "x" * 201,
        TOKEN + "\n",
    ],
)
def test_a_token_that_is_easy_to_guess_or_does_not_travel_is_refused(token):
    with pytest.raises(MlxflowError, match="16 to 200"):
        check_token(token)
    check_token(TOKEN)
