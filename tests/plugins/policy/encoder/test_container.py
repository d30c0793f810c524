"""The safetensors layout is read as far as the bytes bear out what the header says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from agentgym.errors import EncoderError
from agentgym.policy.encoder import container
from agentgym.policy.encoder.container import read, write

TENSORS: dict[str, Any] = {
    "a": np.arange(6, dtype=np.int8).reshape(2, 3),
    "b": np.arange(3, dtype=np.float32),
    "c": np.array([[1.5], [2.5]], np.float16),
    "d": np.arange(4),
}


def join(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(**changes: Any) -> dict[str, Any]:
    return {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


def test_what_was_written_is_read() -> None:
    metadata, tensors = read(write({"who": "äöü"}, TENSORS))

    assert metadata == {"who": "äöü"}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert np.array_equal(tensors[name], tensor)
        assert tensors[name].flags.aligned


def test_the_safetensors_library_reads_what_was_written_and_the_reverse() -> None:
    safetensors = pytest.importorskip("safetensors.numpy")

    theirs = safetensors.load(write({}, TENSORS))
    metadata, ours = read(safetensors.save(TENSORS, {"k": "v"}))

    assert metadata == {"k": "v"}
    for name, tensor in TENSORS.items():
        assert np.array_equal(theirs[name], tensor)
        assert np.array_equal(ours[name], tensor)


def test_a_type_without_a_name_in_the_format_is_refused() -> None:
    with pytest.raises(EncoderError, match="complex128"):
        write({}, {"z": np.zeros(2, complex)})


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "cut off"),
        (b"\0" * 7, "cut off"),
        ((2**63).to_bytes(8, "little") + b"{}", "cut off"),
        (join(b"{{"), "unreadable header"),
        (join(b"\xff\xfe{}"), "unreadable header"),
        (join(b"[" * 100_000), "unreadable header"),
        (join(b'{"n":' + b"9" * 5000 + b"}"), "unreadable header"),
        (join(b'{"t":1,"t":1}'), "twice"),
        (join([]), "not an object"),
        (join({"__metadata__": None}), "metadata"),
        (join({"__metadata__": {"a": 1}}), "metadata"),
        (join({"x" * 300: {}}), "starts with"),
        (join({"t": "F32"}), "unreadable entry"),
        (join({"t": None}), "unreadable entry"),
        (join(entry(dtype="F64"), bytes(8)), "unreadable entry"),
        (join(entry(dtype=["F32"]), bytes(8)), "unreadable entry"),
        (join(entry(data_offsets=[0]), bytes(8)), "unreadable entry"),
        (join(entry(data_offsets="no"), bytes(8)), "unreadable entry"),
        (join(entry(data_offsets=[0.0, 8.0]), bytes(8)), "cannot be"),
        (join(entry(shape=[-2]), bytes(8)), "cannot be"),
        (join(entry(shape=[True, 2]), bytes(8)), "cannot be"),
        (join(entry(shape=[0, 2**28]), bytes(8)), "cannot be"),
        (join(entry(shape=[1] * 9), bytes(8)), "cannot be"),
        (join(entry(shape="2"), bytes(8)), "cannot be"),
        (join(entry(shape=[3]), bytes(8)), "claims"),
        (join(entry(data_offsets=[4, 12]), bytes(12)), "claims"),
        (join(entry(data_offsets=[8, 0]), bytes(8)), "cannot be"),
        (join(entry(shape=[2**27], data_offsets=[0, 2**28]), bytes(8)), "claims"),
        (join(entry(shape=[2**26], data_offsets=[0, 2**28]), bytes(8)), "cut off within tensor t"),
        (join(entry(), bytes(7)), "cut off within tensor t"),
        (join(entry(), bytes(11)), "3 bytes too many"),
        (join(entry() | {"u": entry()["t"]}, bytes(8)), "claims"),
    ],
)
def test_what_the_bytes_do_not_bear_out_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(EncoderError, match=match):
        read(data)


def test_a_file_or_header_above_its_cap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write({}, TENSORS)
    monkeypatch.setattr(container, "_MAX_HEADER_BYTES", 10)
    with pytest.raises(EncoderError, match="header of"):
        read(data)

    monkeypatch.setattr(container, "MAX_BYTES", 10)
    with pytest.raises(EncoderError, match="at most 10"):
        read(data)
