"""`Profile`: what products with packed weights cost on this machine, as a table that a latency budget reads.

In decoding every weight is read once a token and comes from memory. So the matrices that are measured take turns:
before one comes again all the others were read, and have taken its place in the cache (all bits of all shapes: 0.5 GB).
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from tailorbird.errors import DataError, TailorbirdError
from tailorbird.files import read_json, write_json
from tailorbird.kernels import native
from tailorbird.kernels.matrix import PackedMatrix
from tailorbird.runtime.pace import GROUP_SIZE, Pace, blank

FORMAT = "tailorbird-profile"
VERSION = 2
# The largest first: what other bits' kernels leave cold in the processor matters least there.
SHAPES = ((65536, 640), (4096, 4096), (2048, 8192), (8192, 2048), (2048, 2048), (512, 2048), (2048, 512), (512, 512))
BITS = (1, 2, 3, 4, 5, 6, 7, 8)
BATCHES = (1, 8, 512)
# Rounds at least, the first of which warms up, and seconds of all rounds with one batch.
_ROUNDS, _SECONDS = 2, 8.0
# Times that the pace is taken before the products of each batch, and after the last.
_PACES = 100
_MOST_ENTRIES = 100_000
_SLOWEST = 1e9

Progress = Callable[[int, int], None]
# Rows, columns and bits.
_Key = tuple[int, int, int]


@dataclass(frozen=True)
class Entry:
    """One measured product: activations (batch, cols) times a weight (rows, cols) of `bits` bits."""

    rows: int
    cols: int
    bits: int
    batch: int
    milliseconds: float


@dataclass(frozen=True)
class Profile:
    """What was measured on one machine.

    Attributes:
        machine: its processor.
        kernels: the variant that ran.
        threads: it ran with.
        read_bytes_per_s: bandwidth of the memory.
        pace: milliseconds that the products of `Pace` took meanwhile, the median: what "as fast as usual" is here.
        group_size: of the weights.
        entries: the table.
    """

    machine: str
    kernels: str
    threads: int
    read_bytes_per_s: float
    pace: float
    group_size: int
    entries: Sequence[Entry]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, {"format": FORMAT, "version": VERSION} | asdict(self))

    @classmethod
    def read(cls, path: Path) -> Profile:
        """Read what `write` wrote.

        Raises:
            DataError: the file is no profile.
        """
        found = read_json(path, error=DataError)
        try:
            if found.pop("format") != FORMAT or found.pop("version") != VERSION:
                raise ValueError("another format or version")
            if len(found["entries"]) > _MOST_ENTRIES:
                raise ValueError("too many entries")
            entries = [_checked(Entry(**entry)) for entry in found.pop("entries")]
            if not 0 < float(found["pace"]) < _SLOWEST:
                raise ValueError(f"not a pace: {found['pace']}")
            return cls(entries=entries, **found)
        except (AttributeError, KeyError, TypeError, ValueError) as cause:
            raise DataError(f"{path} is no profile: {cause}", hint="make one: tailorbird profile --out FILE") from cause


def measure(progress: Progress | None = None) -> Profile:
    """Measure this machine, with weights that come from memory; takes about a minute.

    Args:
        progress: told how many of the `BATCHES` are measured, and how many there are.

    Raises:
        TailorbirdError: there are no native kernels to measure.
    """
    module = native.extension()
    if module is None:
        raise TailorbirdError("there are no native kernels to measure", hint="install with a C++ compiler")
    before = native.read_bandwidth()
    pace, paces = Pace(), list[float]()
    matrices = {(rows, cols, bits): blank(rows, cols, bits) for bits in BITS for rows, cols in SHAPES}
    entries: list[Entry] = []
    for done, batch in enumerate(BATCHES, 1):
        paces += [pace() for _ in range(_PACES)]
        entries += [Entry(*key, batch, 1e3 * took) for key, took in _in_turn(matrices, batch).items()]
        if progress:
            progress(done, len(BATCHES))
    paces += [pace() for _ in range(_PACES)]
    read = max(before, native.read_bandwidth())
    return Profile(processor(), module.variant(), module.threads(), read, median(paces), GROUP_SIZE, entries)


def processor() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _in_turn(matrices: Mapping[_Key, PackedMatrix], batch: int) -> dict[_Key, float]:
    """Seconds of a product with each, the fastest of all rounds."""
    # A head is read for the last token of a prompt only.
    mine = {key: matrix for key, matrix in matrices.items() if key[0] * key[1] * batch <= 2**34}
    x = {cols: torch.randn(batch, cols, generator=torch.Generator().manual_seed(0)) for _, cols, _ in mine}
    fastest = dict.fromkeys(mine, math.inf)
    done, end = 0, perf_counter() + _SECONDS
    while done < _ROUNDS or perf_counter() < end:
        for key, matrix in mine.items():
            start = perf_counter()
            matrix.matmul(x[key[1]])
            fastest[key] = min(fastest[key], perf_counter() - start)
        done += 1
    return fastest


def _checked(entry: Entry) -> Entry:
    whole = (entry.rows, entry.cols, entry.bits, entry.batch)
    if not all(type(number) is int and number > 0 for number in whole) or not 0 < float(entry.milliseconds) < _SLOWEST:
        raise ValueError(f"not an entry: {entry}")
    return entry
