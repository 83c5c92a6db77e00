"""Tiny models to open: Hugging Face folders and GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

Arrays = Mapping[str, Any]
WriteGguf = Callable[..., Path]


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    kinds[type(value)](key, value)


@pytest.fixture
def write_gguf(tmp_path: Path) -> WriteGguf:
    """A function that writes a GGUF file from metadata and arrays; (array, type) for a quantized one."""

    def write(arch: str, metadata: Mapping[str, Any], tensors: Arrays, name: str = "tiny.gguf") -> Path:
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, arch)
        for key, value in metadata.items():
            add_value(writer, key.replace("ARCH", arch), value)
        for tensor, content in tensors.items():
            if isinstance(content, tuple):
                kind = gguf.GGMLQuantizationType[content[1]]
                data = gguf.quants.quantize(np.asarray(content[0], np.float32), kind)
                writer.add_tensor(tensor, data, raw_dtype=kind)
            else:
                writer.add_tensor(tensor, np.ascontiguousarray(content))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


LLAMA_METADATA = {
    "ARCH.context_length": 64,
    "ARCH.embedding_length": 32,
    "ARCH.block_count": 1,
    "ARCH.feed_forward_length": 64,
    "ARCH.attention.head_count": 4,
    "ARCH.attention.head_count_kv": 2,
    "ARCH.attention.layer_norm_rms_epsilon": 1e-6,
}


@pytest.fixture
def llama_metadata() -> dict[str, Any]:
    """Metadata of a llama with one block."""
    return dict(LLAMA_METADATA)


@pytest.fixture
def llama_tensors() -> dict[str, Any]:
    """Its tensors, by GGUF name."""
    rng = np.random.default_rng(1)
    shapes = {
        "token_embd.weight": (40, 32),
        "output_norm.weight": (32,),
        "blk.0.attn_q.weight": (32, 32),
        "blk.0.attn_k.weight": (16, 32),
        "blk.0.attn_v.weight": (16, 32),
        "blk.0.attn_output.weight": (32, 32),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.ffn_gate.weight": (64, 32),
        "blk.0.ffn_up.weight": (64, 32),
        "blk.0.ffn_down.weight": (32, 64),
        "blk.0.ffn_norm.weight": (32,),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
