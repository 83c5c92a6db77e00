"""Products of uncompressed float32 matrices at the processor's own speed.

PyTorch multiplies float32 matrices with MKL, which on processors of other makers takes a slower path: on an AMD EPYC
about 205 against 460 GFLOP/s on two cores with oneDNN, at the same error (4e-7). PyTorch asks oneDNN only where it is
allowed to round the factors to bfloat16. oneDNN does round them where there are matrix units for bfloat16 (AMX, ARM),
and multiplies in full float32 elsewhere. Statistics and learning can bear the rounding; what is reported can't.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch


@contextmanager
def fast(exact: bool = False) -> Iterator[None]:
    """Float32 products through oneDNN for the time of a block, or of a function this decorates.

    Args:
        exact: only where oneDNN does not round to bfloat16.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if not exact or _in_full() else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def mixed() -> torch.autocast:
    """Mixed precision for the time of a block: what is multiplied is rounded as `learning` says, sums and all else stay
    float32. Weights, losses and steps that are learned with are float32 before and after."""
    return torch.autocast("cpu", learning(), enabled=learning() != torch.float32)


@lru_cache(maxsize=1)
def learning() -> torch.dtype:
    """What is multiplied while learning or measuring: bfloat16 where the processor has instructions for it."""
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return torch.bfloat16 if any(ask is not None and ask() for ask in known) else torch.float32


@lru_cache(maxsize=1)
def _in_full() -> bool:
    """No matrix units that oneDNN would round for."""
    has_units = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return platform.machine() in ("x86_64", "AMD64") and has_units is not None and not has_units()
