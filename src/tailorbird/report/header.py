"""The top of the page: what was made of what, and the key figures."""

from __future__ import annotations

from collections.abc import Mapping

from tailorbird.report.facts import Report, section
from tailorbird.report.svg import tag
from tailorbird.report.text import byte_cell, esc, figure, number, percent

ARROW = ' <span class="arrow" aria-hidden="true">→</span><span class="arrow"> </span>'


def header(report: Report) -> str:
    """Title, method, verified mark and key figures."""
    model, method = section(report, "model"), section(report, "method")
    by = f" by {method['name']}" if method.get("name") else ""
    return tag(
        "header",
        tag("h1", esc(f"{model.get('source', 'model')}, compressed{by}")),
        _method_line(report, method),
        _verified(report.get("verified")),
        tag("dl", *_tiles(report), class_="tiles"),
    )


def _method_line(report: Report, method: Report) -> str:
    budget = report.get("budget")
    wanted = [budget] if isinstance(budget, str) else budget if isinstance(budget, (list, tuple)) else []
    words = [str(method[key]) for key in ("title", "paper") if method.get(key)]
    words += [f"budget {' and '.join(map(str, wanted))}"] if wanted else []
    options = method.get("options")
    chosen = [f"{key} = {value}" for key, value in options.items()] if isinstance(options, Mapping) else []
    lines = [" · ".join(words), ", ".join(chosen)]
    return "".join(tag("p", esc(line), class_="soft") for line in lines if line)


def _verified(mark: object) -> str:
    """A mark only for a definite answer; told by sign and words, not by colour."""
    if mark is True:
        return tag("p", tag("span", "✓ Verified", class_="badge"), " Reloaded and compared bit for bit.")
    if mark is False:
        return tag("p", tag("span", "✗ Not verified", class_="badge"), " Do not rely on these files.")
    return ""


def tile(name: str, key: str, note: str) -> str:
    """A key figure, which is markup, with its name above it and a note below."""
    return tag(
        "div",
        tag("dt", esc(name)),
        tag("dd", key, class_="key"),
        tag("dd", esc(note), class_="about"),
        class_="tile",
    )


def _change(old: str, new: str) -> str:
    return f'<span class="from">{old}</span>{ARROW}<span>{new}</span>'


def _tiles(report: Report) -> list[str]:
    model, artifact, quality = (section(report, key) for key in ("model", "artifact", "quality"))
    old, new = number(model.get("bytes")), number(artifact.get("bytes"))
    weights, bits = number(model.get("weights")), honest_bits(report)
    smaller = f"{figure(old / new)} times smaller" if old and new else ""
    tiles = [tile("Size", _change(byte_cell(old), byte_cell(new)), smaller)]
    if bits is not None:
        stored = number(model.get("bits")) or (8 * old / weights if old and weights else None)
        before = figure(stored) if stored else ""
        shown = _change(before, figure(bits)) if before else figure(bits)
        tiles.append(tile("Honest bits a weight", shown, "weights, scales, norms, headers and plan"))
    before_, after = section(quality, "original"), section(quality, "compressed")
    first, last = number(before_.get("perplexity")), number(after.get("perplexity"))
    if last is not None:
        rise = f"{percent(last / first - 1, sign=True)}, lower is better" if first else "lower is better"
        shown = _change(figure(first, 4), figure(last, 4)) if first is not None else figure(last, 4)
        tiles.append(tile("Perplexity", shown, rise))
    agreement = number(after.get("top1_agreement"))
    if agreement is not None:
        tiles.append(tile("Same next token", percent(agreement), "top-1 agreement with the original"))
    return tiles


def honest_bits(report: Report) -> float | None:
    """Bits of the whole artifact for each weight of the model: as reported, otherwise from the bytes."""
    model, artifact = section(report, "model"), section(report, "artifact")
    bits = number(artifact.get("bits"))
    size, weights = number(artifact.get("bytes")), number(model.get("weights"))
    return bits if bits is not None else 8 * size / weights if size is not None and weights else None
