from collections.abc import Sequence

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
