"""Write src/tailorbird/formats/ggml/codebooks.safetensors: the points of llama.cpp's codebook types.

    python scripts/make_codebooks.py

The points are facts of the file format; they come from the `gguf` package (MIT licence), which llama.cpp's authors
publish.
"""

from __future__ import annotations

from pathlib import Path

import torch
from gguf import quants

from tailorbird.formats.safetensors_write import write

FILE = Path(__file__).resolve().parent.parent / "src" / "tailorbird" / "formats" / "ggml" / "codebooks.safetensors"
NAMES = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")


def main() -> None:
    tensors = {}
    for name in NAMES:
        kind = getattr(quants, name)
        kind.init_grid()
        tensors[name] = torch.from_numpy(kind.grid.copy()).view(kind.grid_shape).to(torch.int8)
    write(FILE, tensors)
    print(f"{FILE}: {', '.join(f'{name} {tuple(t.shape)}' for name, t in tensors.items())}")


if __name__ == "__main__":
    main()
