"""Instructions that the kernels take for a weight, by bits: counted under valgrind, so no other work disturbs them.

    make bench-callgrind

Builds benchmarks/instructions.cpp, which runs every kind of product once, and has callgrind count each. valgrind knows
no AVX-512. Rows go to benchmarks/results/instructions.json, the table to docs/kernels.md. Wants cmake and valgrind.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from tailorbird.errors import TailorbirdError
from tailorbird.files import read_json, write_atomic, write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "instructions.json"
PAGE = ROOT / "docs" / "kernels.md"
VARIANTS = ("avx2", "portable")
BEGIN, END = "<!-- instructions: begin -->\n", "<!-- instructions: end -->\n"
Row = dict[str, Any]


def main() -> None:
    """Count, write the rows and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--build", type=Path, help="a build folder to keep; a temporary one otherwise")
    options = parser.parse_args()
    for tool in ("cmake", "valgrind"):
        if shutil.which(tool) is None:
            raise TailorbirdError(f"there is no {tool}", hint=f"install {tool}, for instance by apt-get install {tool}")
    with tempfile.TemporaryDirectory() as scratch:
        driver = _build(options.build or Path(scratch) / "build")
        rows = [row for variant in VARIANTS for row in _count(driver, variant, Path(scratch))]
    write_json(RESULTS, {"command": "make bench-callgrind", "date": date.today().isoformat(), "rows": rows})
    write_table()


def write_table() -> None:
    """Put the table of the results into the documentation, between its marks."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    table = _table(read_json(RESULTS)["rows"])
    write_atomic(PAGE, (before + BEGIN + table + END + rest.split(END)[1]).encode())
    print(table)


def _build(folder: Path) -> Path:
    make = ["cmake", "-S", ROOT, "-B", folder, "-DTAILORBIRD_BINDINGS=OFF", "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run(make, check=True, stdout=sys.stderr)
    subprocess.run(["cmake", "--build", folder, "--target", "instructions"], check=True, stdout=sys.stderr)
    return folder / "instructions"


def _count(driver: Path, variant: str, scratch: Path) -> list[Row]:
    """One dump of callgrind a product, in the order in which the driver names them."""
    out = scratch / variant
    command = [
        "valgrind", "--quiet", "--tool=callgrind", "--toggle-collect=measured", "--dump-after=measured",
        f"--callgrind-out-file={out}", driver, variant,
    ]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    rows = []
    for number, line in enumerate(done.stdout.split("\n")[:-1], 1):
        kind, bits, products = line.split(";")
        found = re.search(r"^(?:summary|totals): (\d+)", Path(f"{out}.{number}").read_text(), re.MULTILINE)
        if found is None:
            raise TailorbirdError(f"callgrind counted nothing in {kind}", hint="is this valgrind 3.15 or newer?")
        count = int(found[1])
        rows.append(
            {"variant": variant, "kind": kind, "bits": int(bits), "instructions": count, "each": count / int(products)}
        )
    return rows


def _table(rows: list[Row]) -> str:
    bits = sorted({row["bits"] for row in rows})
    lines = ["| variant | product | " + " | ".join(f"{b} bit{'s' * (b > 1)}" for b in bits) + " |"]
    lines.append("|---|---|" + "--:|" * len(bits))
    for variant, kind in dict.fromkeys((row["variant"], row["kind"]) for row in rows):
        found = {row["bits"]: row["each"] for row in rows if (row["variant"], row["kind"]) == (variant, kind)}
        lines.append(f"| `{variant}` | {kind} | " + " | ".join(f"{found[b]:.2f}" for b in bits) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
