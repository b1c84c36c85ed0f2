import hashlib
import io
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlxflow.data import fetch as module
from mlxflow.data.digits import load_mnist
from mlxflow.data.fetch import Archive, Idx, fetch
from mlxflow.errors import MlxflowError
from tests.data import sets


@pytest.fixture
def server(tmp_path):
    """A mirror of tmp_path/mirror that can resume and that breaks off after `limit` bytes."""
    root = tmp_path / "mirror"
    root.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            file = root / self.path.lstrip("/")
            if not file.is_file():
                return self.send_error(404)
            content = file.read_bytes()
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            made.asked.append(start)
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][:made.limit])

        def log_message(self, *args):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.root, made.limit, made.asked = root, None, []
    made.url = f"http://127.0.0.1:{made.server_address[1]}/"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def digits(folder, mirrors=()):
    sets.mnist(folder)
    sums = {name: module.content_sum(folder / f"{name}.gz") for pair in module.FILES.values() for name in pair}
    return Idx("Little", tuple(mirrors), sums, tuple("abcdefghij"))


def photographs(folder, mirrors=()):
    sets.cifar_python(folder / "inner")
    members = {p.name: module.file_md5(p) for p in (folder / "inner").iterdir()}
    with tarfile.open(folder / "little.tar.gz", "w:gz") as tar:
        tar.add(folder / "inner", "cifar-10-batches-py")
        evil = tarfile.TarInfo("../../outside")
        evil.size = 4
        tar.addfile(evil, io.BytesIO(b"evil"))
    return Archive("Little", tuple(mirrors), "little.tar.gz", module.file_md5(folder / "little.tar.gz"), members)


def test_local_copies_packed_or_not_are_checked_and_taken(tmp_path):
    dataset = digits(tmp_path / "a")
    fetch(dataset, tmp_path / "out", tmp_path / "a")
    sets.mnist(tmp_path / "b", packed=False)
    fetch(dataset, tmp_path / "out2", tmp_path / "b")
    for out in ("out", "out2"):
        assert load_mnist(tmp_path / out)["train"].names == tuple("abcdefghij")
    fetch(dataset, tmp_path / "out")  # all there: no source needed


def test_a_wrong_copy_is_refused_and_leaves_nothing(tmp_path):
    dataset = digits(tmp_path / "a")
    sets.mnist(tmp_path / "b", count=26)
    with pytest.raises(MlxflowError, match="checksum"):
        fetch(dataset, tmp_path / "out", tmp_path / "b")
    assert not (tmp_path / "out").exists()
    with pytest.raises(MlxflowError, match="lacks train-images"):
        fetch(dataset, tmp_path / "out", tmp_path)
    with pytest.raises(MlxflowError, match="no such folder"):
        fetch(dataset, tmp_path / "out", tmp_path / "nowhere")


def test_a_file_that_is_there_and_another_is_not_overwritten(tmp_path):
    dataset = digits(tmp_path / "a")
    sets.mnist(tmp_path / "out", count=26)
    before = (tmp_path / "out" / "train-images-idx3-ubyte.gz").read_bytes()
    with pytest.raises(MlxflowError, match="Move it away"):
        fetch(dataset, tmp_path / "out", tmp_path / "a")
    assert (tmp_path / "out" / "train-images-idx3-ubyte.gz").read_bytes() == before


def test_an_archive_is_unpacked_within_the_folder_only(tmp_path):
    dataset = photographs(tmp_path / "a")
    made = fetch(dataset, tmp_path / "x" / "y" / "out", tmp_path / "a")
    assert sorted(p.name for p in made) == ["data_batch_1", "data_batch_2", "test_batch"]
    assert not list(tmp_path.rglob("outside"))
    fetch(dataset, tmp_path / "loose", tmp_path / "a" / "inner")
    wrong = replace(dataset, members=dataset.members | {"test_batch": "0" * 32})
    with pytest.raises(MlxflowError, match="test_batch is not Little's"):
        fetch(wrong, tmp_path / "other", tmp_path / "a")
    assert not (tmp_path / "other").exists()


def test_a_download_goes_on_where_it_broke_off(tmp_path, server):
    dataset = photographs(server.root, [server.url])
    size = (server.root / "little.tar.gz").stat().st_size
    server.limit = part = size // 4  # three of them are never the whole
    for attempt in range(3):
        with pytest.raises(MlxflowError, match="again to go on"):
            fetch(dataset, tmp_path / "out")
    server.limit = None
    reports = []
    fetch(dataset, tmp_path / "out", progress=lambda done, total: reports.append((done, total)))
    assert server.asked == [0, part, 2 * part, 3 * part]
    assert reports[-1] == (size, size)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["data_batch_1", "data_batch_2", "test_batch"]


def test_a_damaged_download_is_thrown_away_and_the_next_mirror_asked(tmp_path, server):
    dataset = photographs(server.root, [server.url + "nowhere/", server.url])
    good = (server.root / "little.tar.gz").read_bytes()
    (server.root / "little.tar.gz").write_bytes(b"x" + good[1:])
    with pytest.raises(MlxflowError, match="checksum is another. Try again"):
        fetch(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (server.root / "little.tar.gz").write_bytes(good)
    fetch(dataset, tmp_path / "out")
    digit_set = digits(tmp_path / "d", [server.url])
    with pytest.raises(MlxflowError, match="--from"):
        fetch(digit_set, tmp_path / "out2")


def test_the_published_checksums_are_whole():
    for dataset in (module.MNIST, module.FASHION):
        assert len(dataset.sums) == 4 and all(len(s) == 64 and int(s, 16) for s in dataset.sums.values())
    assert all(len(s) == hashlib.md5().digest_size * 2 for s in module.CIFAR10.members.values())
