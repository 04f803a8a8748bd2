"""Sealed from and to paths, bytes, file objects and streams; and files of any kind."""

import io
import os
import tempfile
import threading

import numpy as np
import pytest
import safetensors.numpy
from helpers.sealed import ALICE, BOB, OWNER, public, same, some

from modellock_jax.vault import _kinds, _sources
from modellock_jax.vault.errors import Tampered, Unreadable
from modellock_jax.vault.sealed import _chunks, _content, envelope
from modellock_jax.vault.sealed.rewrite import read_header

TO = [public(ALICE)]
PLAIN = safetensors.numpy.save(some())
OTHERS = {
    "m.npz": (b"PK\x03\x04" + bytes(60), "ZIP archive, as NumPy's .npz"),
    "m.gguf": (b"GGUF\1\0\0\0" + bytes(60), "GGUF"),
    "m.msgpack": (b"\x82\xa6params\x81" + bytes(60), "msgpack"),
    "m.onnx": (b"\x08\x07\x12\x07pytorch" + bytes(60), "ONNX"),
    "m.pt": (b"\x80\x02\x8a\nl\xfc\x9c" + bytes(60), "pickle"),
    "m.h5": (b"\x89HDF\r\n\x1a\n" + bytes(60), "HDF5"),
    "m": (b"GGUF\1\0\0\0" + bytes(60), "GGUF"),
    "x.safetensors": (b"PK\x03\x04" + bytes(60), "ZIP archive"),
    "empty": (b"", "not a safetensors file"),
}


class Stream(io.RawIOBase):
    """Bytes that come once, a few at a time, with no position and no name."""

    def __init__(self, data=b""):
        self.left, self.written, self.spooled = data, [], []

    def readable(self):
        return True

    def writable(self):
        return True

    def read(self, size=-1):
        piece, self.left = self.left[:700], self.left[700:]
        return piece

    def write(self, data):
        self.written.append(bytes(data[:1000]))
        return len(self.written[-1])

    @property
    def all(self):
        return b"".join(self.written)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(_chunks, "CHUNK", 64)


@pytest.fixture
def spools(monkeypatch):
    """All that is spooled to $TMPDIR."""
    found, real = [], tempfile.TemporaryFile

    def spool(*args, **options):
        found.append(real(*args, **options))
        os.dup2(os.dup(found[-1].fileno()), found[-1].fileno())
        kept.append(os.dup(found[-1].fileno()))
        return found[-1]

    kept = []
    monkeypatch.setattr(tempfile, "TemporaryFile", spool)
    yield kept
    for file in kept:
        os.close(file)


def content(file):
    return os.pread(file, os.fstat(file).st_size, 0)


def way_in(kind, folder, data):
    if kind == "path":
        (folder / "in").write_bytes(data)
        return folder / "in"
    if kind == "file":
        (folder / "in").write_bytes(b"before" + data)
        file = open(folder / "in", "rb")  # noqa: SIM115
        file.read(6)
        return file
    return {"bytes": bytes, "view": memoryview, "BytesIO": io.BytesIO, "stream": Stream}[kind](data)


WAYS = ("path", "file", "bytes", "view", "BytesIO", "stream")


@pytest.mark.parametrize("signers", [(), (OWNER,)], ids=["unsigned", "signed"])
@pytest.mark.parametrize("data", [PLAIN, b"any bytes " * 40, b"x"], ids=["model", "bytes", "one"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_and_out_gives_the_same_bytes(tmp_path, spools, way, data, signers):
    by = [public(one) for one in signers]
    kind = "safetensors" if data == PLAIN else "bytes"
    for target in (tmp_path / "sealed", io.BytesIO(), Stream()):
        source = way_in(way, tmp_path, data)
        assert envelope.seal(source, target, TO, signers=signers, name="n") == kind
        if way == "file":
            source.close()
        if isinstance(target, Stream):
            sealed = target.all
        else:
            sealed = target.getvalue() if isinstance(target, io.BytesIO) else target.read_bytes()
        given = way_in(way, tmp_path, sealed)
        with envelope.open(given, ALICE, signed_by=by, expect="n") as opened:
            assert b"".join(map(bytes, opened.plain())) == data
            for out in (io.BytesIO(), Stream()):
                opened.export(out)
                assert (out.all if isinstance(out, Stream) else out.getvalue()) == data
            new = io.BytesIO()
            envelope.rotate(opened, new, [public(BOB)])
        if way == "file":
            given.close()
        with envelope.open(new.getvalue(), BOB) as opened:
            assert (opened.kind, b"".join(map(bytes, opened.plain()))) == (kind, data)
    assert read_header(Stream(sealed)).name == "n"
    for file in spools:  # plain bytes lie nowhere, not even for a moment
        assert data[:20] not in content(file) or len(data) == 1


def test_an_unsigned_model_is_streamed_and_the_rest_is_spooled_sealed(spools):
    """The head goes out before the last of the source came in."""
    done = []

    class Watched(Stream):
        def read(self, size=-1):
            piece = super().read(size)
            done.append((len(self.left), len(target.all)))
            return piece

    for data, signers, streamed in (
        (PLAIN, (), True), (PLAIN, (OWNER,), False), (b"bytes" * 500, (), False),
    ):  # fmt: skip
        target = Stream()
        done.clear()
        before = len(spools)
        envelope.seal(Watched(data), target, TO, signers=signers)
        assert any(left and out for left, out in done) == streamed
        assert len(spools) - before == (not streamed)


def test_a_stream_through_a_pipe_needs_no_memory_for_all_of_it(monkeypatch):
    """A real pipe, both ways, larger than any buffer."""
    monkeypatch.setattr(_chunks, "CHUNK", 2**16)
    arrays = {"w": np.arange(2**20, dtype=np.int32)}
    data = safetensors.numpy.save(arrays)
    (r1, w1), (r2, w2) = os.pipe(), os.pipe()

    def feed():
        with os.fdopen(w1, "wb") as out:
            out.write(data)

    def seal():
        with os.fdopen(r1, "rb") as source, os.fdopen(w2, "wb") as target:
            envelope.seal(source, target, TO)

    threads = [threading.Thread(target=one) for one in (feed, seal)]
    for thread in threads:
        thread.start()
    with os.fdopen(r2, "rb") as source:
        assert same(envelope.load(source, ALICE), arrays)
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("cut", [9, 100, len(PLAIN) - 1, -1])
def test_a_model_that_is_cut_off_or_longer_is_refused(tmp_path, cut):
    data = PLAIN + b"x" if cut == -1 else PLAIN[:cut]
    for way in WAYS:
        source = way_in(way, tmp_path, data)
        with pytest.raises(Unreadable, match="give a whole safetensors file"):
            envelope.seal(source, tmp_path / "out", TO)
        if way == "file":
            source.close()
    assert not (tmp_path / "out").exists()


def test_a_sealed_stream_that_is_cut_off_is_tampered():
    target = Stream()
    envelope.seal(some(), target, TO)
    for cut in (100, 66_000, len(target.all) - 1):
        with pytest.raises((Tampered, Unreadable)):
            envelope.load(Stream(target.all[:cut]), ALICE)


def test_what_is_no_source_or_target_is_named(tmp_path):
    for wrong in (7, None, io.StringIO("x"), ["m"]):
        with pytest.raises(TypeError, match=r"give a path|binary"):
            envelope.seal(wrong, tmp_path / "x", TO)
        with pytest.raises(TypeError, match=r"give a path|binary"):
            envelope.seal(some(), wrong, TO)
    with pytest.raises(Unreadable, match="cannot be read"):
        envelope.load(tmp_path / "absent", ALICE)


# Files of other kinds


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_called_by_their_kind_and_sealed_as_bytes(tmp_path, name):
    data, word = OTHERS[name]
    path = tmp_path / name
    path.write_bytes(data)
    with _sources.open_reader(path) as reader, pytest.raises(Unreadable, match=word) as caught:
        _content.directory_of(reader)
    assert "cut off" not in str(caught.value)
    assert envelope.seal(path, tmp_path / "s", TO) == "bytes"
    with envelope.open(tmp_path / "s", ALICE) as sealed:
        for use in (sealed.load, lambda: sealed.names, lambda: sealed.array("w")):
            with pytest.raises(
                Unreadable, match=r"no safetensors file but bytes|GGUF file of version 1"
            ):
                use()
        sealed.export(tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_a_name_says_what_bytes_do_not(tmp_path):
    """What is called a safetensors file must be one, and is not sealed as anything else."""
    for data in (b"", b"garbage", bytes(100)):
        (tmp_path / "m.safetensors").write_bytes(data)
        with pytest.raises(Unreadable, match="give a whole safetensors file"):
            envelope.seal(tmp_path / "m.safetensors", tmp_path / "s", TO)
    assert _kinds.what(b"", "model.onnx") == "an ONNX file"
