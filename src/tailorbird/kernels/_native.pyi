from collections.abc import Sequence
from typing import Any

from torch import Tensor

class Run:
    @staticmethod
    def make(
        rows: int,
        group_size: int,
        bits: int,
        groups: Sequence[int],
        scale_index: Sequence[int],
        scale_count: int,
        planes: Tensor,
        planes_start: int,
        scales: Tensor,
        row_scales: Tensor | None,
        zeros: Tensor | None,
        zeros_bit: int,
        zero_width: int,
        offsets: Tensor | None,
        row_offsets: Tensor | None,
    ) -> Run: ...

class Matrix:
    rows: int
    cols: int
    nbytes: int
    def __init__(self, rows: int, group_size: int, groups: int, runs: Sequence[Run], order: Sequence[int]) -> None: ...
    def matmul(self, x: Tensor, out: Tensor, activations: str) -> None: ...
    def gather(self, ids: Tensor, out: Tensor) -> None: ...
    def unpack(
        self,
        run: int,
        scale_index: Sequence[int],
        planes: Tensor,
        planes_start: int,
        scales: Tensor,
        row_scales: Tensor | None,
        zeros: Tensor | None,
        zeros_bit: int,
        zero_width: int,
        offsets: Tensor | None,
        row_offsets: Tensor | None,
    ) -> None: ...

def variants() -> list[str]: ...
def variant() -> str: ...
def use_variant(name: str) -> None: ...
def threads() -> int: ...
def set_threads(threads: int) -> None: ...
def read_bandwidth(bytes: int, seconds: float) -> float: ...

class Linear:
    def __init__(self, matrix: Matrix, bias: Any | None) -> None: ...

class Rope:
    def __init__(self, frequency: Any, scaling: float) -> None: ...

class Layer:
    def __init__(
        self,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int,
        scale: float,
        soft_cap: float,
        rope: int,
        gate: str,
        before_attention: Any,
        after_attention: Any | None,
        before_mlp: Any,
        after_mlp: Any | None,
        query_norm: Any | None,
        key_norm: Any | None,
        qkv: Sequence[Linear],
        output: Linear,
        gate_up: Sequence[Linear],
        down: Linear,
    ) -> None: ...

class Cache:
    capacity: int
    nbytes: int
    def __init__(self, decoder: Decoder, capacity: int, int8: bool) -> None: ...

class Decoder:
    product_seconds: float
    def __init__(
        self,
        *,
        epsilon: float,
        embedding_scale: float,
        logit_cap: float,
        layers: Sequence[Layer],
        ropes: Sequence[Rope],
        embedding: Matrix,
        norm: Any,
        head: Linear,
    ) -> None: ...
    def forward(self, tokens: Any, start: int, cache: Cache, logits: Any, activations: str) -> None: ...
