"""Files whose size is known beforehand, against the library of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tailorbird.errors import ModelError
from tailorbird.formats.safetensors_header import read_header, read_tensor
from tailorbird.formats.safetensors_write import file_bytes, write

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip
Shape = tuple[int, ...]


def tensor_of(shape: Shape, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(50).to(dtype)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
        st.tuples(st.lists(st.integers(0, 5), max_size=3).map(tuple), st.sampled_from(DTYPES)),
        min_size=1,
        max_size=6,
    )
)
def test_size_content_and_bytes(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, tuple[Shape, torch.dtype]]
) -> None:
    path = tmp_path_factory.mktemp("write") / "file.safetensors"
    tensors = {name: tensor_of(*entry, i) for i, (name, entry) in enumerate(entries.items())}
    write(path, tensors)
    meta = {name: torch.empty(shape, dtype=dtype, device="meta") for name, (shape, dtype) in entries.items()}
    assert path.stat().st_size == file_bytes(meta) == file_bytes(tensors)
    found = load_file(path)
    infos = read_header(path, error=ModelError)
    assert set(found) == set(tensors) == set(infos)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        assert torch.equal(read_tensor(infos[name], error=ModelError), tensor)
    first = path.read_bytes()
    write(path, dict(reversed(tensors.items())))
    assert path.read_bytes() == first


def test_views_are_written_as_they_read(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    views = {"transposed": whole.T, "strided": whole[::2, 1:4], "broadcast": whole[:1].expand(3, 6)}
    write(tmp_path / "f.safetensors", views)
    found = load_file(tmp_path / "f.safetensors")
    assert all(torch.equal(found[name], view) for name, view in views.items())


def test_every_tensor_starts_at_a_multiple_of_its_element(tmp_path: Path) -> None:
    tensors = {f"t{i}": tensor_of((3,), dtype, i) for i, dtype in enumerate(DTYPES)}
    write(tmp_path / "f.safetensors", tensors)
    for info in read_header(tmp_path / "f.safetensors", error=ModelError).values():
        assert info.start % info.dtype.itemsize == 0


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    write(path, {"a": torch.ones(3)})
    before = path.read_bytes()
    with pytest.raises(TypeError, match="meta"):
        write(path, {"a": torch.ones(3, device="meta")})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.safetensors"]
