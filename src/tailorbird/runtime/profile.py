"""`Profile`: what products with packed weights cost on this machine, as a table that a latency budget reads."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from tailorbird.errors import DataError, TailorbirdError
from tailorbird.files import read_json, write_json
from tailorbird.formats import PlaneSpec
from tailorbird.kernels import native
from tailorbird.kernels.matrix import PackedMatrix

FORMAT = "tailorbird-profile"
VERSION = 1
SHAPES = ((512, 512), (512, 2048), (2048, 512), (2048, 2048), (2048, 8192), (8192, 2048), (4096, 4096), (65536, 640))
BITS = (1, 2, 3, 4, 5, 6, 7, 8)
BATCHES = (1, 8, 512)
GROUP_SIZE = 64
_SECONDS = 0.12
_MOST_ENTRIES = 100_000

Progress = Callable[[int, int], None]


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
        group_size: of the weights.
        entries: the table.
    """

    machine: str
    kernels: str
    threads: int
    read_bytes_per_s: float
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
            return cls(entries=entries, **found)
        except (AttributeError, KeyError, TypeError, ValueError) as cause:
            raise DataError(f"{path} is no profile: {cause}", hint="make one: tailorbird profile --out FILE") from cause


def measure(progress: Progress | None = None) -> Profile:
    """Measure this machine; takes about a minute.

    Raises:
        TailorbirdError: there are no native kernels to measure.
    """
    module = native.extension()
    if module is None:
        raise TailorbirdError("there are no native kernels to measure", hint="install with a C++ compiler")
    before = native.read_bandwidth()
    entries: list[Entry] = []
    for done, (rows, cols) in enumerate(SHAPES, 1):
        for bits in BITS:
            entries += _entries(rows, cols, bits)
        if progress:
            progress(done, len(SHAPES))
    read = max(before, native.read_bandwidth())
    return Profile(processor(), module.variant(), module.threads(), read, GROUP_SIZE, entries)


def processor() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _entries(rows: int, cols: int, bits: int) -> Iterator[Entry]:
    matrix = _matrix(rows, cols, bits)
    for batch in BATCHES:
        # A head is read for the last token of a prompt only.
        if rows * cols * batch > 2**34:
            continue
        x = torch.randn(batch, cols, generator=torch.Generator().manual_seed(0))
        yield Entry(rows, cols, bits, batch, 1e3 * _fastest(lambda x=x: matrix.matmul(x)))  # type: ignore[misc]


def _matrix(rows: int, cols: int, bits: int) -> PackedMatrix:
    """A weight of any codes: what stands in it does not change how long it takes."""
    spec = PlaneSpec.uniform(bits, cols, GROUP_SIZE)
    arrays = {name: torch.ones_like(array, device="cpu") for name, array in spec.plan(rows).arrays.items()}
    return PackedMatrix.from_arrays(rows, spec.bits, GROUP_SIZE, arrays)


def _fastest(work: Callable[[], Any]) -> float:
    work()
    best, end = float("inf"), perf_counter() + _SECONDS
    while perf_counter() < end or best == float("inf"):
        start = perf_counter()
        work()
        best = min(best, perf_counter() - start)
    return best


def _checked(entry: Entry) -> Entry:
    whole = (entry.rows, entry.cols, entry.bits, entry.batch)
    if not all(type(number) is int and number > 0 for number in whole) or not 0 < float(entry.milliseconds) < 1e9:
        raise ValueError(f"not an entry: {entry}")
    return entry
