"""The bounded safetensors reader: agrees with the library, refuses everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from tailorbird.errors import ArtifactError, ModelError
from tailorbird.formats.safetensors_header import DTYPES, read_header, read_rows, read_tensor


def raw_file(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {str(dtype): torch.randn(6, 4, generator=generator).to(dtype) for dtype in DTYPES.values()}
    tensors |= {"scalar": torch.tensor(3.5), "none": torch.empty(0, 4)}
    save_file(tensors, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors", error=ModelError)
    assert set(header) == set(tensors)
    for name, info in header.items():
        got = read_tensor(info, error=ModelError)
        assert got.dtype == tensors[name].dtype and got.shape == tensors[name].shape
        assert torch.equal(got.view(torch.uint8), tensors[name].view(torch.uint8)) if got.ndim else got == 3.5
    info = header["torch.float16"]
    assert torch.equal(read_rows(info, 2, 5, error=ModelError), tensors["torch.float16"][2:5])
    assert info.numel == 24 and info.nbytes == 48
    with pytest.raises(ValueError, match="rows"):
        read_rows(info, 2, 7, error=ModelError)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{ ", b"", "not valid JSON"),
        (b"[[" * 40000, b"", "not valid JSON"),
        (b"[1]", b"", "not a JSON object"),
        (b'{"a":1,"a":2}', b"", "twice"),
        ({"a": 1}, b"", "malformed header entry"),
        ({"a": {**entry(), "more": 1}}, b"x" * 8, "malformed header entry"),
        ({"a": entry("F31")}, b"x" * 8, "has the type 'F31'"),
        ({"a": entry(shape=(-2,))}, b"x" * 8, "malformed shape"),
        ({"a": entry(shape=(True, 2))}, b"x" * 8, "malformed shape"),
        ({"a": entry(shape=(1,) * 17)}, b"x" * 4, "malformed shape"),
        ({"a": entry(shape=(2.0,))}, b"x" * 8, "malformed shape"),
        ({"a": entry(offsets=(0, 8, 16))}, b"x" * 8, "malformed offsets"),
        ({"a": entry(offsets=(8, 0))}, b"x" * 8, "need 8"),
        ({"a": entry(shape=(2**62, 2**62))}, b"x" * 8, "need"),
        ({"a": entry(shape=(2**40,), offsets=(0, 2**42))}, b"x" * 8, "truncated"),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, b"x" * 12, "overlaps"),
        ({"a": entry(offsets=(4, 12))}, b"x" * 12, "gap"),
        ({"a": entry()}, b"x" * 9, "belong to no tensor"),
    ],
)
def test_refuses_damaged_headers(tmp_path: Path, header: Any, data: bytes, message: str) -> None:
    path = raw_file(tmp_path / "x.safetensors", header, data)
    with pytest.raises(ArtifactError, match=message) as caught:
        read_header(path, error=ArtifactError)
    assert str(path) in caught.value.message and caught.value.hint


@pytest.mark.parametrize("data", [b"", b"abc", b"\xff" * 16, (2**40).to_bytes(8, "little") + b"{}"])
def test_refuses_files_that_are_no_safetensors(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ModelError, match="truncated or not safetensors"):
        read_header(tmp_path / "x", error=ModelError)


def test_missing_and_shrunken_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is missing"):
        read_header(tmp_path / "x", error=ModelError)
    save_file({"a": torch.ones(100)}, tmp_path / "x")
    info = read_header(tmp_path / "x", error=ModelError)["a"]
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-1])
    with pytest.raises(ModelError, match="ends inside the tensor 'a'"):
        read_tensor(info, error=ModelError)
    (tmp_path / "x").unlink()
    with pytest.raises(ModelError, match="can't be read"):
        read_tensor(info, error=ModelError)


GOOD = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int8)})


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_any_changed_byte_is_refused_or_harmless(tmp_path_factory: Any, at: int, value: int) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(GOOD[:at] + bytes([value]) + GOOD[at + 1 :])
    try:
        header = read_header(path, error=ArtifactError)
    except ArtifactError:
        return
    assert sum(read_tensor(info, error=ArtifactError).nbytes for info in header.values()) <= len(GOOD)
