"""`mlxflow serve` as a user types it: what it prints, and what it refuses."""

import socket
import sys

import pytest

import mlxflow
from mlxflow.cli.main import main
from tests.sampling import tiny
from tests.serve.conftest import program


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return str(tiny.weights_folder(tmp_path_factory.mktemp("cli-serve") / "tiny"))


@pytest.fixture
def refused(monkeypatch, capsys):
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["mlxflow", "serve", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        assert (
            stopped.value.code == 2
            and not said.out
            and said.err.startswith("mlxflow: ")
            and said.err.count("\n") == 1
        )
        return said.err

    return run


def test_at_home_there_is_no_token(weights):
    with program("--weights", weights, "--port", "0") as (server, _, line):
        assert line == f"{server.address}/" and server.get("/").status == 200
        assert server.get("/health").json["model"] == "tiny"


def test_elsewhere_there_is_a_token_in_the_address(weights):
    with program("--weights", weights, "--port", "0", "--host", "0.0.0.0") as (server, _, line):
        token = line.partition("?token=")[2]
        assert len(token) >= 32 and server.get("/").status == 401
        assert server.get("/v1/models", Authorization=f"Bearer {token}").status == 200
    with program("--weights", weights, "--port", "0", "--host", "0.0.0.0") as (_, _, other):
        assert other.partition("?token=")[2] != token
    with program("--weights", weights, "--port", "0", MLXFLOW_TOKEN="a-token-of-my-own") as (server, _, line):
        assert line.endswith("?token=a-token-of-my-own") and server.get("/").status == 401


def test_what_it_refuses(refused, weights, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"Port {port} is in use" in refused("--port", port)
    assert "no address called" in refused("--host", "no such host")
    assert "no address 192.0.2.1" in refused("--host", "192.0.2.1", "--port", "0")
    assert "16 to 200" in refused("--token", "short")
    assert "no weights at nowhere" in refused("--weights", "nowhere", "--port", "0")
    for name in [
        name
        for name in sys.modules
        if name.partition(".")[0] in ("starlette", "uvicorn") or name.startswith("mlxflow.serve")
    ]:
        monkeypatch.delitem(sys.modules, name)
    # Importing the package anew sets it on its parent, where the next test would find it without its modules.
    monkeypatch.setattr(mlxflow, "serve", getattr(mlxflow, "serve", None), raising=False)
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert "pip install 'mlxflow[web]'" in refused()
