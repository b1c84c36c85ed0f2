"""Getting published data sets: from a mirror, resumed where it broke off, or from local copies; checked either way.

Each file is checked by the SHA-256 (or the published MD5) of its *unpacked* content, so that a re-compressed or
unpacked copy is as good as the original. A file appears in the target folder whole and checked, or not at all.
"""

import contextlib
import hashlib
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlxflow.data.digits import CLASSES, FILES, find_idx, idx_content
from mlxflow.errors import MlxflowError

Progress = Callable[[int, int], None]
CHUNK = 1 << 18
TIMEOUT = 30


@dataclass(frozen=True)
class Idx:
    """Four IDX files. sums: SHA-256 of the unpacked content by published name."""

    title: str
    mirrors: tuple[str, ...]
    sums: dict[str, str]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Archive:
    """A .tar.gz. md5: of the whole; members: file name to MD5 of its content."""

    title: str
    mirrors: tuple[str, ...]
    file: str
    md5: str
    members: dict[str, str]


_IDX_NAMES = [name for pair in FILES.values() for name in pair]
MNIST = Idx(
    "MNIST",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    dict(zip(_IDX_NAMES, (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"))))
FASHION = Idx(
    "Fashion-MNIST",
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    dict(zip(_IDX_NAMES, (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"))),
    ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"))
CIFAR10 = Archive(
    "CIFAR-10",
    ("https://www.cs.toronto.edu/~kriz/",),
    "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a",
    {"data_batch_1": "c99cafc152244af753f735de768cd75f", "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
     "data_batch_3": "54ebc095f3ab1f0389bbae665268c751", "data_batch_4": "634d18415352ddfa80567beed471001a",
     "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb", "test_batch": "40351d587109b95175f43aff81a1287e",
     "batches.meta": "5ff9c542aee3614f3951f8cda6e48888"})


def fetch(dataset: Idx | Archive, out: Path, source: Path | None = None, progress: Progress | None = None) -> list[Path]:
    """The data set's files in the folder `out`, all checked; those that are there and right are kept.

    source: a folder with local copies, instead of the mirrors. Raises MlxflowError with what to do.
    """
    if source is not None and not source.is_dir():
        raise MlxflowError(f"--from {source}: there is no such folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MlxflowError(f"{out} cannot be made: {error.strerror}.") from None
    get = fetch_archive if isinstance(dataset, Archive) else fetch_idx
    try:
        return get(dataset, out, source, progress)
    except MlxflowError:
        with contextlib.suppress(OSError):  # an empty folder says nothing; one that holds something stays
            out.rmdir()
        raise


def fetch_idx(dataset: Idx, out: Path, source: Path | None, progress: Progress | None) -> list[Path]:
    made = []
    for name, wanted in dataset.sums.items():
        found = find_idx(out, name)
        if found is None or content_sum(found) != wanted:
            file = found or out / f"{name}.gz"
            if source is None:
                packed = download(dataset, f"{name}.gz", out, progress)
            else:
                packed = find_idx(source, name)
                if packed is None:
                    raise MlxflowError(f"{source} lacks {name}(.gz) of {dataset.title}.")
            if content_sum(packed) != wanted:
                if source is None:
                    packed.unlink()
                raise MlxflowError(f"{packed} is not {dataset.title}'s {name}: its checksum is another. "
                                   + ("Try again." if source is None else "Get the original, or train on the folder "
                                      "itself with --data, which does not compare checksums."))
            if found is not None:
                raise MlxflowError(f"{found} is not {dataset.title}'s: its checksum is another. "
                                   "Move it away, or choose another folder.")
            if source is None:
                os.replace(packed, file)
            else:
                file = out / packed.name
                write_whole(file, packed.read_bytes())
            found = file
        made.append(found)
    if dataset.classes:
        write_whole(out / CLASSES, ("\n".join(dataset.classes) + "\n").encode())
    return made


def fetch_archive(dataset: Archive, out: Path, source: Path | None, progress: Progress | None) -> list[Path]:
    made = [out / name for name in dataset.members]
    if all(p.is_file() and file_md5(p) == wanted for p, wanted in zip(made, dataset.members.values())):
        return made
    for path in made:
        if path.exists() and file_md5(path) != dataset.members[path.name]:
            raise MlxflowError(f"{path} is not {dataset.title}'s: its checksum is another. "
                               "Move it away, or choose another folder.")
    archive = None
    if source is None:
        archive = download(dataset, dataset.file, out, progress)
    elif (source / dataset.file).is_file():
        archive = source / dataset.file
    if archive is None:
        contents = loose_files(dataset, source)
    else:
        if file_md5(archive) != dataset.md5:
            if source is None:
                archive.unlink()
            raise MlxflowError(f"{archive} is not {dataset.title}'s: its checksum is another. "
                               + ("Try again." if source is None else "Get the original."))
        contents = unpacked(dataset, archive)
    for name, content in contents.items():
        if hashlib.md5(content).hexdigest() != dataset.members[name]:
            raise MlxflowError(f"{source or archive}: {name} is not {dataset.title}'s: its checksum is another. Get "
                               "the original, or train on the folder itself with --data, which does not compare checksums.")
    for name, content in contents.items():
        write_whole(out / name, content)
    if source is None:
        archive.unlink()
    return made


def loose_files(dataset: Archive, source: Path) -> dict[str, bytes]:
    """The members as files in `source` or in the one folder that the archive makes."""
    for place in (source, source / "cifar-10-batches-py"):
        if all((place / name).is_file() for name in dataset.members):
            return {name: (place / name).read_bytes() for name in dataset.members}
    raise MlxflowError(f"{source} holds neither {dataset.file} nor its files {', '.join(dataset.members)}.")


def unpacked(dataset: Archive, archive: Path) -> dict[str, bytes]:
    """The members by name, whatever folders and other things the archive has."""
    contents = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if member.isfile() and name in dataset.members and member.size < 1 << 30:
                    contents[name] = tar.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise MlxflowError(f"{archive} is damaged or was cut off ({error}).") from None
    missing = sorted(dataset.members.keys() - contents.keys())
    if missing:
        raise MlxflowError(f"{archive} lacks {', '.join(missing)}.")
    return contents


def content_sum(file: Path) -> str:
    return hashlib.sha256(idx_content(file)).hexdigest()


def file_md5(file: Path) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "md5").hexdigest()


def write_whole(file: Path, content: bytes) -> None:
    """Written beside, flushed and renamed."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, file)
    except OSError as error:
        raise MlxflowError(f"{file} cannot be written: {error.strerror}.") from None
    finally:
        partial.unlink(missing_ok=True)


def download(dataset: Idx | Archive, name: str, out: Path, progress: Progress | None) -> Path:
    """The file `name` from the first mirror that has it, as OUT/NAME.partial; what is there already is not asked
    for again."""
    partial = out / f"{name}.partial"
    problems = []
    for mirror in dataset.mirrors:
        try:
            _resume(mirror + name, partial, progress)
            return partial
        except (OSError, ValueError, urllib.error.URLError) as error:
            problems.append(f"{mirror} ({getattr(error, 'reason', error)})")
    files = dataset.file if isinstance(dataset, Archive) else ", ".join(f"{n}.gz" for n in dataset.sums)
    raise MlxflowError(f"{name} could not be had from {' or '.join(problems)}. Run the command again to go on, or get "
                       f"{files} elsewhere and name the folder with --from.")


def _resume(url: str, partial: Path, progress: Progress | None) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send: the checksum says whether it is whole
            return
        raise
    with answer:
        if have and answer.status != 206:  # a mirror that cannot resume sends the whole
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else 0
        with open(partial, "ab" if have else "wb") as f:
            while chunk := answer.read(CHUNK):
                f.write(chunk)
                have += len(chunk)
                if progress:
                    progress(have, total or have)
    if total and have != total:
        raise OSError("the connection broke off")
