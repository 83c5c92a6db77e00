"""Error at equal bytes of formats and of ways to fit them, on layers of the demo model.

    python benchmarks/formats.py
    python benchmarks/formats.py --method ggml --layer 8.mlp.down_proj

The error is trace(dW H dW^T) / trace(W H W^T), H the Gram matrix of a layer's inputs on calibration text. Methods are
the ones users name; `ggml` types are fitted by our sweep. Some rows are studies of what is not built: ternary codes,
five to a byte; and on normal numbers, without any H, a trellis as QTIP has it (arXiv 2406.11235), with a table of 2**L
normal quantiles and a Viterbi search. Rows go to benchmarks/results/formats.json; a table is printed.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailorbird import data
from tailorbird.anatomy import Part
from tailorbird.checkpoint import open_checkpoint
from tailorbird.files import read_json, write_json
from tailorbird.fit.coders import AffineCoder
from tailorbird.fit.descent import Schedule, code_rows
from tailorbird.fit.ggml import fit_ggml
from tailorbird.fit.groups import minmax
from tailorbird.fit.hessian import damped
from tailorbird.formats import PlaneSpec, Spec, SumSpec, TrellisSpec
from tailorbird.formats.ggml import TYPES, decode
from tailorbird.formats.grid import Units
from tailorbird.kernels.matrix import PackedMatrix
from tailorbird.kernels.native import extension
from tailorbird.measure.statistics import Stats
from tailorbird.methods import find
from tailorbird.methods.planes import Planes
from tailorbird.methods.trellis import Trellis

RESULTS = Path(__file__).parent / "results" / "formats.json"
MODEL = "demo:gemma-270m"
LAYERS = ("8.self_attn.o_proj", "8.mlp.down_proj", "2.mlp.gate_proj", "15.self_attn.q_proj")
WINDOWS, LENGTH = 16, 512
# Method, bits asked for, options.
RUNS: list[tuple[str, int, dict[str, Any]]] = [
    ("billm", 1, {}), ("billm", 1, {"search": "salience", "shift": True, "limit": 50, "trial": 2}), ("pb-llm", 1, {}),
    *((method, bits, {}) for bits in (1, 2, 3, 4) for method in ("gptq", "slim-llm", "planes")),
    ("planes", 2, {"free": False, "mix": False}), ("planes", 2, {"mix": False}), ("planes", 3, {"mix": False}),
    ("planes", 2, {"group_size": 16}), ("rtn", 4, {}), ("nf4", 4, {}),
    *(("trellis", bits, {}) for bits in (1, 2, 3, 4)), ("trellis", 2, {"mix": False}), ("trellis", 2, {"beam": 64}),
    ("trellis", 2, {"beam": 16}), ("trellis", 2, {"group_size": 128}),
]  # fmt: skip
MEMORY, SECONDS = 1 << 27, 8.0
PLANES = {"1.5 planes": (1, 2), "2.5 planes": (2, 3)}
Row = dict[str, Any]


def main() -> None:
    options = _options()
    if options.products:
        document = read_json(options.out) if options.out.exists() else {}
        write_json(options.out, document | {"products": products()})
        return
    torch.manual_seed(0)
    checkpoint = open_checkpoint(MODEL)
    weights = {name: checkpoint.read(f"model.layers.{name}.weight").float() for name in options.layer or LAYERS}
    grams, rows = gram_matrices(checkpoint.folder), []
    document = read_json(options.out) if options.out.exists() else {}
    for name, weight in weights.items():
        found = layer(weight.contiguous(), grams[name], options.method, options.bits)
        show(name, found)
        rows += [{"layer": name} | row for row in found]
    if partly := bool(options.method or options.layer):
        fresh = {(row["layer"], row["format"], int(row["bits"])) for row in rows}
        rows += [r for r in document["layers"] if (r["layer"], r["format"], int(r["bits"])) not in fresh]
        rows.sort(key=lambda row: (LAYERS.index(row["layer"]), row["bits"]))
    normal = document["normal"] if partly else trellises()
    document |= {
        "command": "python benchmarks/formats.py", "date": date.today().isoformat(), "model": MODEL,
        "tokens": WINDOWS * LENGTH, "machine": platform.processor() or platform.machine(), "torch": torch.__version__,
        "layers": rows, "normal": normal,
    }  # fmt: skip
    write_json(options.out, document)


@torch.no_grad()
def gram_matrices(folder: Path) -> dict[str, Tensor]:
    """Sum of x x^T over the inputs of the layers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = "\n".join(data.read_documents(data.CALIBRATION_WIKIPEDIA)[:40])
    ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids[: WINDOWS * (LENGTH - 1)])
    windows = torch.cat([torch.full((WINDOWS, 1), tokenizer.bos_token_id), ids.view(WINDOWS, -1)], dim=1)
    grams: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def add(_: Any, inputs: tuple[Tensor]) -> None:
            x = inputs[0].flatten(0, -2)
            grams[name] = grams.get(name, 0) + x.T @ x

        return add

    for name in LAYERS:
        model.get_submodule(f"model.layers.{name}").register_forward_pre_hook(watch(name))
    for window in windows:
        model.model(window[None])
    return grams


def layer(weight: Tensor, gram: Tensor, only: str, only_bits: int) -> list[Row]:
    """All rows of one layer, or those of one method at one number of bits."""
    if only == "ggml":
        return ggml_rows(weight, gram)
    # Inputs with this Gram matrix, for the method that compares outputs.
    values, vectors = torch.linalg.eigh(gram.double())
    inputs = (vectors * values.clamp_min(0).sqrt()).T.float().contiguous()
    stats, rows = Stats(gram, inputs, len(inputs)), []
    stats.factor(0.01)
    part = Part("w", (weight.shape[0], weight.shape[1]), "mlp")
    for name, bits, options in [run for run in RUNS if not only or (run[0] == only and only_bits in (0, run[1]))]:
        method, start = find(name).from_options(options), time.perf_counter()
        spec = method.decide(weight.clone(), stats, method.spec(part, bits))
        packed = method.fit(weight.clone(), stats, spec).pack()
        title = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
        rows.append(row(title, packed.nbytes, weight, packed.dequantize(), gram) | {"seconds": since(start)})
    if only in ("", "trellis") and not only_bits:
        rows += [between(halves, weight, stats, gram) for halves in (3, 5, 7)]
    if only:
        return rows
    for title, counts in PLANES.items():
        rows.append(unequal(title, counts, weight, stats, gram))
    rows.append(ternary(weight, stats, gram))
    rows += ggml_rows(weight, gram)
    return sorted(rows, key=lambda one: float(one["bits"]))


def ggml_rows(weight: Tensor, gram: Tensor) -> list[Row]:
    """llama.cpp's types of less than 4.6 bits whose blocks divide a row; our sweep needs no importance matrix."""
    rows, (upper, _) = [], Stats(gram).factor(0.01)
    for kind in TYPES.values():
        if weight.shape[1] % kind.weights == 0 and kind.bits < 4.6:
            start = time.perf_counter()
            blocks = fit_ggml(weight.clone(), kind, upper)
            found = row(f"ggml {kind.name}", blocks.numel(), weight, decode(blocks, kind), gram)
            rows.append(found | {"seconds": since(start)})
    return sorted(rows, key=lambda one: float(one["bits"]))


def unequal(title: str, counts: tuple[int, int], weight: Tensor, stats: Stats, gram: Tensor) -> Row:
    """Free planes, the half of the groups that lose most with one more."""
    method, size = Planes(), 128
    losses = torch.tensor(method._losses(weight, stats, size))
    first = losses.argsort()[: len(losses) // 2].tolist()
    spec = SumSpec.free(tuple(counts[0] if g in first else counts[1] for g in range(len(losses))), size)
    packed = method.fit(weight.clone(), stats, spec).pack()
    return row(f"free planes, {title}", packed.nbytes, weight, packed.dequantize(), gram)


def between(halves: int, weight: Tensor, stats: Stats, gram: Tensor) -> Row:
    """A trellis of half bits, which no number of bits asks for."""
    method, start = Trellis(), time.perf_counter()
    spec = method.decide(weight.clone(), stats, TrellisSpec.uniform(halves, weight.shape[1], 64))
    packed = method.fit(weight.clone(), stats, spec).pack()
    named = row(f"trellis, {halves / 2} bits", packed.nbytes, weight, packed.dequantize(), gram)
    return named | {"seconds": since(start)}


@dataclass(frozen=True)
class TernaryCoder(AffineCoder):
    """-scale, 0 or scale."""

    @property
    def top(self) -> int:
        """The largest code."""
        return 2

    def start(self, w: Tensor) -> Tensor:
        """The best symmetric scale of a normal variable."""
        scale = 1.22 * w.square().mean(0).sqrt()
        return torch.stack([scale, -scale])

    def snap(self, numbers: Tensor) -> Tensor:
        """Rounded scale."""
        scale = super().snap(numbers)[0]
        return torch.stack([scale, -scale])


def ternary(weight: Tensor, stats: Stats, gram: Tensor, size: int = 64) -> Row:
    """Ternary codes under the same descent; bytes as five codes a byte and an 8-bit scale a group would take."""
    rows, cols = weight.shape
    one, groups = PlaneSpec((2,), size, "none"), cols // size
    w = weight.T.contiguous()
    scale = torch.stack(
        [TernaryCoder(one, None, minmax).start(w[g * size : (g + 1) * size])[0] for g in range(groups)], 1
    )  # type: ignore[arg-type]
    units = Units.of(scale, scale, replace(one, bits=(2,) * groups), 1.5)
    upper, _ = stats.factor(0.01)
    coded = code_rows(w, [TernaryCoder(one, units, minmax)] * groups, damped(gram, 0.01)[0], upper, Schedule(1, 0, 2))
    values = torch.cat([group.values for group in coded]).T
    return row("ternary (study)", rows * (-(-cols // 5) + groups + 2), weight, values, gram)


def trellises(length: int = 512, count: int = 64) -> list[Row]:
    """Mean squared error on normal numbers, without scales, of what is stored at 1 to 3 bits."""
    generator, found = torch.Generator().manual_seed(0), []
    x = torch.randn(count, length, generator=generator)
    for bits in (1, 2, 3):
        levels = lloyd(2**bits)
        found.append(
            {"format": "best scalar levels", "bits": bits, "error": float((x - nearest(x, levels)).square().mean())}
        )
        for states in (8, 12):  # 2**12 halves are 8 kB
            lost = float((x - trellis(x, bits, states)).square().mean())
            found.append({"format": f"trellis of 2**{states} states (study)", "bits": bits, "error": lost})
    for one in found:
        print(f"normal numbers {one['bits']} bits {one['format']:36}{one['error']:9.5f}", flush=True)
    return found


def lloyd(count: int) -> Tensor:
    """The scalar levels that lose least on a normal variable."""
    x = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    levels = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    for _ in range(300):
        place = torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)
        levels = torch.zeros(count, dtype=torch.float64).index_add_(0, place, x) / torch.bincount(
            place, minlength=count
        )
    return levels.float()


def nearest(x: Tensor, levels: Tensor) -> Tensor:
    """Values of the nearest levels."""
    return levels[torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)]


def trellis(x: Tensor, bits: int, size: int) -> Tensor:
    """The path of least squared error through a bit-shift trellis: `bits` new bits a step, a value for every state."""
    count = 2**size
    table = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).float()
    table = table[torch.randperm(count, generator=torch.Generator().manual_seed(1))]
    # State s is met from the states whose last bits are its first ones.
    before = (torch.arange(count) >> bits)[:, None] + (torch.arange(2**bits) << (size - bits))
    cost, back = (x[:, :1] - table).square(), []
    for column in x.T[1:]:
        least = cost[:, before].min(2)
        back.append(before.expand(len(x), -1, -1).gather(2, least.indices[..., None])[..., 0].to(torch.int16))
        cost = least.values + (column[:, None] - table).square()
    state, values = cost.argmin(1, keepdim=True), []
    for step in reversed(back):
        values.append(table[state[:, 0]])
        state = step.gather(1, state).long()
    return torch.stack([*values, table[state[:, 0]]][::-1], 1)


def products() -> list[Row]:
    """Milliseconds of a product with one row of activations; the fastest of many passes, formats in turn.

    A small weight stays in the cache, for one thread. Of large ones there are as many copies as take 128 MB, which two
    threads read one after the other.
    """
    found: list[Row] = []
    for shape, threads, copied, kinds in SHAPES:
        extension().set_threads(threads)  # type: ignore[union-attr]
        copies = {spec: laid_out(spec, shape[0], copied) for spec in kinds(shape[1])}
        best, x, end = dict.fromkeys(copies, 1.0), torch.ones(1, shape[1]), time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            for spec, matrices in copies.items():
                start = time.perf_counter()
                for matrix in matrices:
                    matrix.matmul(x)
                best[spec] = min(best[spec], (time.perf_counter() - start) / len(matrices))
        for spec, seconds in best.items():
            milliseconds = round(1e3 * seconds, 4)
            found.append({"format": spec.label, "shape": list(shape), "threads": threads, "milliseconds": milliseconds})
            print(f"{milliseconds:8.4f} ms  {shape}  {spec.label}", flush=True)
    return found


def laid_out(spec: Spec, rows: int, copied: bool) -> list[Any]:
    """A weight for the kernels, or as many copies as take `MEMORY`."""
    planned = spec.plan(rows)
    weight = planned.with_arrays({name: torch.ones_like(a, device="cpu") for name, a in planned.arrays.items()})
    return [weight.lay_out(PackedMatrix) for _ in range(max(1, MEMORY // planned.nbytes) if copied else 1)]


def cached(cols: int) -> list[Spec]:
    """Formats of a weight that stays in the cache."""
    free: list[Spec] = [SumSpec.free((count,) * (cols // 128), 128) for count in (2, 3)]
    return [*(PlaneSpec.uniform(bits, cols, 64) for bits in (1, 2, 3)), *free, *trellis_specs(cols)]


def streamed(cols: int) -> list[Spec]:
    """Formats of one that does not."""
    return [*(PlaneSpec.uniform(bits, cols, 64) for bits in (1, 2, 3, 4)), *trellis_specs(cols)]


def trellis_specs(cols: int) -> list[Spec]:
    """All rates."""
    return [TrellisSpec.uniform(halves, cols, 64) for halves in range(2, 9)]


SHAPES = [((2048, 640), 1, False, cached), ((4096, 4096), 2, True, streamed), ((262144, 640), 2, True, streamed)]


def row(title: str, nbytes: int, weight: Tensor, got: Tensor, gram: Tensor) -> Row:
    """Name, honest bits and error."""
    lost, w, h = (got - weight).double(), weight.double(), gram.double()
    error = float((lost @ h * lost).sum() / (w @ h * w).sum())
    return {"format": title, "bits": 8 * nbytes / weight.numel(), "error": error}


def since(start: float) -> float:
    return round(time.perf_counter() - start, 2)


def show(title: str, rows: list[Row]) -> None:
    print(f"\n{title}")
    for one in rows:
        print(f"{one['bits']:8.3f} bits  {one['error']:.5f}  {one['format']}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--products", action="store_true", help="only time products, beside the rows there are")
    parser.add_argument("--method", default="", help="only the rows of this method (or ggml), beside those there are")
    parser.add_argument("--layer", action="append", choices=LAYERS, help="only this layer, beside those there are")
    parser.add_argument("--bits", type=int, default=0, help="with --method: the bits asked for; 0: all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
