"""Downloads, and the data sets made from them, against a local server."""

import gzip
import hashlib
import http.server
import io
import pickle
import socket
import sys
import tarfile
import threading
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from collabopt.datasets import DatasetError, cifar10, fashion_mnist, idx, mnist, speech_commands
from collabopt.datasets.download import fetch


class Server:
    """Serves `files` (content by path) and records requests. `promised` overrides the Content-Length header."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.promised: int | None = None
        self.requests: list[str] = []
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.requests.append(self.path)
                content = served.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(served.promised or len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def add(self, name: str, content: bytes) -> tuple[str, str]:
        """Serve `content` and return its URL and SHA-256."""
        self.files[f"/{name}"] = content
        return f"http://127.0.0.1:{self.http.server_port}/{name}", hashlib.sha256(content).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_download_is_complete_and_reports_its_progress(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    content = np.random.default_rng(0).bytes(12 << 20)
    url, sha256 = server.add("file.bin", content)
    assert fetch(url, tmp_path / "new" / "file.bin", sha256, "a file").read_bytes() == content
    assert list_files(tmp_path) == ["new/file.bin"]
    log = capsys.readouterr().err
    assert "\r" not in log
    first, *progress = log.splitlines()
    assert first == f"a file: downloading {url}"
    assert 9 <= len(progress) <= 10
    assert progress[-1] == "a file: 100 % of 12.6 MB"


def test_a_download_shows_a_bar_on_a_terminal(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, sha256 = server.add("file.bin", bytes(3 << 20))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(url, tmp_path / "file.bin", sha256, "a file")
    log = capsys.readouterr().err
    assert log.startswith(f"a file: downloading {url}\n")
    assert "100%|" in log.split("\r")[-1]


def test_a_download_is_readable_by_others(server: Server, tmp_path: Path) -> None:
    url, sha256 = server.add("file.bin", b"content")
    assert fetch(url, tmp_path / "file.bin", sha256, "a file").stat().st_mode & 0o777 == 0o644


def fail_to_fetch(url: str, destination: Path, sha256: str = "0" * 64) -> str:
    """Return the message of a download that fails, and check that it leaves no file."""
    with pytest.raises(DatasetError) as caught:
        fetch(url, destination, sha256, "a file")
    assert not destination.parent.exists() or list_files(destination.parent) == []
    message = str(caught.value)
    for part in ("a file", url, f"Put the file at {destination} by hand"):
        assert part in message
    assert "\n" not in message
    return message


def test_a_wrong_hash_leaves_nothing(server: Server, tmp_path: Path) -> None:
    url, sha256 = server.add("file.bin", b"not what was published")
    message = fail_to_fetch(url, tmp_path / "file.bin")
    assert sha256 in message and "0" * 64 in message


def test_a_missing_file_gives_the_status(server: Server, tmp_path: Path) -> None:
    url, _ = server.add("file.bin", b"")
    assert "404" in fail_to_fetch(f"{url}.elsewhere", tmp_path / "file.bin")


def test_a_missing_server_gives_no_connection(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file.bin"
        assert "no connection" in fail_to_fetch(url, tmp_path / "file.bin")


def test_a_silent_server_gives_a_timeout(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file.bin"
        with pytest.raises(DatasetError, match="did not answer in time"):
            fetch(url, tmp_path / "file.bin", "0" * 64, "a file", timeout_seconds=0.2)


def test_a_broken_connection_leaves_nothing(server: Server, tmp_path: Path) -> None:
    url, sha256 = server.add("file.bin", b"half of it")
    server.promised = 1000
    fail_to_fetch(url, tmp_path / "file.bin", sha256)


def test_a_file_larger_than_the_disk_is_not_downloaded(server: Server, tmp_path: Path) -> None:
    url, sha256 = server.add("file.bin", b"a little")
    server.promised = 10**18
    assert "disk is full" in fail_to_fetch(url, tmp_path / "file.bin", sha256)


def test_a_folder_that_is_a_file_is_named(server: Server, tmp_path: Path) -> None:
    url, sha256 = server.add("file.bin", b"content")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetError, match=f"{tmp_path / 'file'}"):
        fetch(url, tmp_path / "file" / "file.bin", sha256, "a file")


def test_mnist_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    draw, content = np.random.default_rng(0), io.BytesIO()
    images = draw.integers(0, 256, (40, 28, 28), np.uint8)
    labels = np.arange(40, dtype=np.uint8) % 10
    np.savez(content, x_train=images[:30], y_train=labels[:30], x_test=images[30:], y_test=labels[30:])
    url, sha256 = server.add("mnist.npz", content.getvalue())
    first, second = (mnist.read(tmp_path, url, sha256) for _ in range(2))
    assert server.requests == ["/mnist.npz"]
    assert first.fingerprint == second.fingerprint
    assert first.input_shape == (28, 28, 1)
    inputs = first.test.prepare(first.test.examples).numpy()
    assert inputs.shape == (10, 28, 28, 1) and inputs.dtype == np.float32
    assert np.array_equal(np.round(inputs[..., 0] * 255), images[30:])


def make_idx(values: np.ndarray) -> bytes:
    """An array of unsigned bytes as a compressed idx file."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return gzip.compress(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())


def make_fashion_files() -> dict[str, bytes]:
    draw = np.random.default_rng(0)
    counts = {"train": 30, "t10k": 10}
    images = {name: draw.integers(0, 256, (count, 28, 28), np.uint8) for name, count in counts.items()}
    return {
        f"{name}-{kind}-ubyte.gz": make_idx(values)
        for name, count in counts.items()
        for kind, values in {"images-idx3": images[name], "labels-idx1": np.arange(count, dtype=np.uint8) % 10}.items()
    }


def test_fashion_mnist_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    added = {name: server.add(name, content) for name, content in make_fashion_files().items()}
    url = next(iter(added.values()))[0].rpartition("/")[0]
    digests = {name: sha256 for name, (_, sha256) in added.items()}
    first, second = (fashion_mnist.read(tmp_path, url, digests, tmp_path / "no package") for _ in range(2))
    assert server.requests == [f"/{name}" for name in digests]
    assert first.fingerprint == second.fingerprint
    assert first.input_shape == (28, 28, 1) and len(first.train) == 30
    assert first.classes[first.test.labels[9]] == "ankle boot"


def test_fashion_mnist_is_taken_from_the_package_of_debian(server: Server, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for name, content in make_fashion_files().items():
        (package / name).write_bytes(content)
    (tmp_path / "fashion_mnist").mkdir()  # a download that failed leaves it
    parts = fashion_mnist.read(tmp_path, "http://nowhere.invalid", package=package)
    assert len(parts.test) == 10 and server.requests == []
    assert not any((tmp_path / "fashion_mnist").iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "not a readable gzip file"),
        (make_idx(np.zeros((2, 28, 28), np.uint8))[:-9], "not a readable gzip file"),
        (gzip.compress(bytes([0, 0, 13, 1, 0, 0, 0, 1]) + bytes(4)), "not an idx file of unsigned bytes"),
        (gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7])), "not an idx file of unsigned bytes"),
        (gzip.compress(b""), "not an idx file of unsigned bytes"),
    ],
    ids=["no gzip", "cut", "another type", "too short", "empty"],  # the time in a gzip file differs per worker
)
def test_a_damaged_idx_file_is_named(content, message, tmp_path) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=f"{path}: {message}"):
        idx.read(path)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def make_cifar10_archive() -> bytes:
    """Make six batches of ten images in the official layout. All red values of image i are i."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
            planes = np.zeros((10, 3, 1024), np.uint8)
            planes[:, 0] = np.arange(number * 10, number * 10 + 10)[:, None]
            batch = {
                b"data": planes.reshape(10, 3072),
                b"labels": [(label * 7) % 10 for label in range(10)],
                b"filenames": [f"image_{99 - number}_{n}.png".encode() for n in range(10)],
            }
            add(tar, f"cifar-10-batches-py/{name}", pickle.dumps(batch, protocol=2))
    return content.getvalue()


def test_cifar10_is_made_from_its_archive_sorted_by_class_and_file_name(server: Server, tmp_path: Path) -> None:
    url, sha256 = server.add("cifar.tar.gz", make_cifar10_archive())
    parts = cifar10.read(tmp_path, url, sha256)
    assert list_files(tmp_path) == ["cifar10.npz"]
    assert parts.train.labels.tolist() == [label for label in range(10) for _ in range(5)]
    # Label 0 is the first image of every batch. File names of later batches sort earlier.
    assert parts.train.examples[:5, 0, 0].tolist() == [[40, 0, 0], [30, 0, 0], [20, 0, 0], [10, 0, 0], [0, 0, 0]]
    assert parts.test.examples.shape == (10, 32, 32, 3)


def test_an_archive_placed_by_hand_is_verified_used_and_kept(server: Server, tmp_path: Path) -> None:
    url, sha256 = server.add("cifar.tar.gz", make_cifar10_archive())
    by_hand = tmp_path / "cifar-10-python.tar.gz"
    by_hand.write_bytes(b"something else")
    with pytest.raises(DatasetError, match=rf"{by_hand.name}: its SHA-256 is .*, expected {sha256}"):
        cifar10.read(tmp_path, url, sha256)
    by_hand.write_bytes(make_cifar10_archive())
    sha256 = hashlib.sha256(by_hand.read_bytes()).hexdigest()
    cifar10.read(tmp_path, url, sha256)
    assert server.requests == []
    assert list_files(tmp_path) == ["cifar-10-python.tar.gz", "cifar10.npz"]


def encode_wav(samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((channels, 2, rate, len(samples), "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return content.getvalue()


def make_speech_archive(words: tuple[str, ...], clips: int = 6, noise_seconds: int = 12) -> bytes:
    """Make an archive in the official layout. Two clips per word are for validation, two for test.

    The noise is a ramp, so that the place of any piece can be computed.
    """
    draw, content = np.random.default_rng(0), io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        names = [f"{word}/{speaker:08x}_nohash_0.wav" for word in words for speaker in range(clips)]
        for name in names:
            add(tar, f"./{name}", encode_wav(draw.integers(-9999, 9999, 12_000)))
        for name in ("doing_the_dishes", "white_noise"):
            add(tar, f"./_background_noise_/{name}.wav", encode_wav(np.linspace(1, 32_000, noise_seconds * 16_000)))
        add(tar, "./_background_noise_/README.md", b"Noise.")
        add(tar, "./LICENSE", b"CC BY 4.0")
        for place, split in ((0, "validation"), (1, "testing")):
            chosen = [name for index, name in enumerate(names) if index % clips in (place, place + 2)]
            add(tar, f"./{split}_list.txt", "\n".join(chosen).encode() + b"\n")
    return content.getvalue()


WORDS = (*speech_commands.WORDS, "bird", "wow")


def test_speech_commands_are_made_from_the_official_archive(server: Server, tmp_path: Path) -> None:
    url, sha256 = server.add("speech.tar.gz", make_speech_archive(WORDS))
    for data in (tmp_path / "one", tmp_path / "two"):
        parts = speech_commands.read(data, url, sha256)
    # Each split has 20 clips of the ten words, and a tenth as many unknown and silent ones.
    for split in (parts.train, parts.validation, parts.test):
        assert np.bincount(split.labels).tolist() == [2] * 12
    assert [path.name for path in data.iterdir() if path.is_file()] == []
    files = list_files(data / "speech_commands")
    assert files == list_files(tmp_path / "one" / "speech_commands")
    assert parts.fingerprint == speech_commands.read(tmp_path / "one").fingerprint
    assert "LICENSE" in files
    assert [name.split("/")[2].split("_")[0] in ("bird", "wow") for name in files if "_unknown_" in name] == [True] * 6
    speakers = [{name.split("/")[-1] for name in files if name.startswith(f"{s}/yes")} for s in speech_commands.SPLITS]
    assert not set.intersection(*speakers) and sum(map(len, speakers)) == 6


def test_splits_have_silence_from_separate_stretches(server: Server, tmp_path: Path) -> None:
    speech_commands.read(tmp_path, *server.add("speech.tar.gz", make_speech_archive(WORDS)))
    for split, (first, last) in speech_commands.STRETCHES.items():
        for path in (tmp_path / "speech_commands" / split / "_silence_").iterdir():
            with wave.open(str(path)) as file:
                samples = np.frombuffer(file.readframes(20_000), "<i2").astype(float)
            assert len(samples) == 16_000
            # The volume scales the ramp, so that start and slope together give the place of the piece.
            start = samples[0] / (samples[-1] - samples[0]) / 12
            assert first - 0.01 <= start <= last - 1 / 12 + 0.01


def test_an_archive_without_lists_or_noise_is_rejected(server: Server, tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        add(tar, "./yes/0_nohash_0.wav", encode_wav(np.zeros(16_000)))
    url, sha256 = server.add("speech.tar.gz", content.getvalue())
    with pytest.raises(DatasetError, match=r"validation_list\.txt"):
        speech_commands.read(tmp_path, url, sha256)
    assert not (tmp_path / "speech_commands").exists()


def test_too_short_noise_leaves_no_incomplete_folder(server: Server, tmp_path: Path) -> None:
    url, sha256 = server.add("speech.tar.gz", make_speech_archive(WORDS, noise_seconds=5))
    with pytest.raises(DatasetError, match="at least ten seconds"):
        speech_commands.read(tmp_path, url, sha256)
    # The download is kept, because it is correct and large.
    assert list_files(tmp_path) == ["speech_commands_v0.02.tar.gz"]
