"""Find the tables of the trellis, `kernels/trellis_tables.py`.

    python benchmarks/trellis_tables.py

Lloyd's iteration: normal numbers are coded with the tables there are, by the native search and without any error
feedback; then the tables are fitted to the numbers by least squares. Of several starts of one table the best is kept,
by the squared error on other numbers; pairs of tables have one start (at 3 bits the best of five gained 0.8 %).
Prints it on yet other numbers, by number of bits, and writes the file.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import torch
from torch import Tensor

from tailorbird.kernels.trellis import (
    DEVIATION,
    MAX_HALVES,
    MIN_HALVES,
    ONE_TABLE,
    SHORT,
    STATE,
    column_bits,
    search,
    values_of,
)

FILE = Path(__file__).parents[1] / "src" / "tailorbird" / "kernels" / "trellis_tables.py"
ROWS, COLS, BEAM, ROUNDS, STARTS = 32, 512, 64, 200, 4
HALF = 2 ** (STATE // 2)
# Of what was counted before, so much counts in the next round.
DECAY = 0.7


def main() -> None:
    found = []
    for halves in range(MIN_HALVES, MAX_HALVES + 1):
        starts = STARTS if halves <= ONE_TABLE else 1
        _, table = min(trained(halves, start) for start in range(1, 1 + starts))
        print(f"{halves / 2:3} bits: {lost(halves, table, 0):.5f}", flush=True)
        found.append(table)
    FILE.write_text(source(found))


def trained(halves: int, start: int) -> tuple[float, list[int]]:
    """Squared error on normal numbers, and the table, or older half and newer, in whole numbers."""
    generator = torch.Generator().manual_seed(start)
    first = 1.0 if halves <= ONE_TABLE else 0.7
    table = DEVIATION * first * torch.randn(2 * HALF, generator=generator, dtype=torch.float64)
    counts, sums = torch.zeros(2 * HALF, 2 * HALF, dtype=torch.float64), torch.zeros(2 * HALF, dtype=torch.float64)
    for _ in range(ROUNDS):
        x = torch.randn(ROWS, COLS, generator=generator)
        states = coded(x, halves, table)
        used = torch.zeros(x.numel(), 2 * HALF, dtype=torch.float64)
        used.scatter_(1, looked(states.flatten(), halves), 1.0)
        counts = DECAY * counts + used.T @ used
        sums = DECAY * sums + used.T @ (DEVIATION * x.double().flatten())
        table = table + torch.linalg.solve(counts + torch.eye(2 * HALF), sums - counts @ table)
    found = table.round().int().tolist()
    assert values_of(table.round(), halves).abs().max() <= 127, "a sum has to fit a byte: lower DEVIATION"
    return lost(halves, found, STARTS + 1), found


def looked(states: Tensor, halves: int) -> Tensor:
    """The numbers of the table that states look up, (n, 1 or 2)."""
    if halves <= ONE_TABLE:
        return (states >> (STATE - SHORT))[:, None]
    return torch.stack([states % HALF, HALF + states // HALF], -1)


def lost(halves: int, table: list[int], seed: int) -> float:
    """Squared error on normal numbers."""
    x = torch.randn(4 * ROWS, COLS, generator=torch.Generator().manual_seed(seed))
    found = torch.tensor(table, dtype=torch.float64)
    error = x - (values_of(found, halves)[coded(x, halves, found)] / DEVIATION).float()
    return float(error.square().mean())


def coded(x: Tensor, halves: int, table: Tensor) -> Tensor:
    """States (rows, cols) of the paths found for these numbers."""
    all_values = values_of(table, halves).float().repeat(MAX_HALVES + 1, 1)
    scale = torch.full((len(x), 1), 1 / DEVIATION)
    stream = search(x, scale, torch.eye(x.shape[1]), (halves,), x.shape[1], BEAM, all_values)
    bits = torch.nn.functional.pad((stream[..., None] >> torch.arange(8)).flatten(1) & 1, (STATE, 0)).long()
    ends = column_bits((halves,), x.shape[1]).cumsum(0)
    return sum(bits[:, ends + k] << k for k in range(STATE))  # type: ignore[return-value]


def source(tables: list[list[int]]) -> str:
    """The module."""
    lines = ['"""What the bits of a trellis look up: made by `benchmarks/trellis_tables.py`."""', ""]
    lines += ["from __future__ import annotations", ""]
    lines += ["# For 2 to 8 half bits a column. Up to 4: by 7 bits; else 64 for the older six, 64 for the newer."]
    lines += ["TABLES = ("]
    for table in tables:
        text = textwrap.wrap(", ".join(map(str, table)) + ",", 110)
        lines += ["    (", *(f"        {line}" for line in text), "    ),"]
    return "\n".join([*lines, ")  # fmt: skip", ""])


if __name__ == "__main__":
    main()
