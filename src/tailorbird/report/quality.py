"""Quality before and after, and sample texts side by side."""

from __future__ import annotations

from tailorbird.report.facts import Report, numbers, rows, section
from tailorbird.report.svg import tag
from tailorbird.report.tables import note, table
from tailorbird.report.tables import section as page_section
from tailorbird.report.text import MISSING, esc, figure, number, percent

_NAMES = {
    "perplexity": "perplexity ↓",
    "kl": "KL divergence from the original, nats ↓",
    "top1_agreement": "same most likely token as the original ↑",
}


def quality(report: Report) -> str:
    """One row for each measure, and how it was measured."""
    data = section(report, "quality")
    before, after = numbers(section(data, "original")), numbers(section(data, "compressed"))
    known = [*(key for key in _NAMES if key in {*before, *after}), *sorted({*before, *after} - {*_NAMES})]
    lines = [_row(key, before.get(key), after.get(key)) for key in known]
    shown = table(
        "Before and after (↓ lower is better, ↑ higher is better)",
        ["measure", "original", "compressed", "change"],
        lines,
    )
    told = [note(_how(data)), shown] if shown else []
    told += [learned] if (learned := _learned(report)) else []
    return page_section("Quality", "quality", *told) if told else ""


def _learned(report: Report) -> str:
    """How near the original the finished model came while it learned from it, pass by pass."""
    values = report.get("divergence")
    found = [number(value) for value in values] if isinstance(values, list) else []
    if len(found) < 2:
        return ""
    known = {k: value for k, value in enumerate(found) if value is not None}
    kept = min(known, key=lambda k: (known[k], -k), default=None)
    lines = [
        [f"pass {k}" if k else "as fitted", figure(known[k], 4) if k in known else MISSING, "kept" if k == kept else ""]
        for k in range(len(found))
    ]
    return table("Distillation: KL divergence of held-back predictions, nats", ["after", "divergence", ""], lines)


def _row(key: str, old: float | None, new: float | None) -> list[str]:
    share = key == "top1_agreement" or key.endswith("accuracy")
    first, last = (percent(value) if share else figure(value, 4) for value in (old, new))
    change = MISSING
    if old is not None and new is not None:
        change = f"{(new - old) * 100:+.1f} points".replace("-", "−") if share else MISSING
        if not share and old:
            change = percent(new / old - 1, sign=True)
    return [esc(_NAMES.get(key, key.replace("_", " "))), first, last, change]


def _how(data: Report) -> str:
    words = [str(data["text"])] if data.get("text") else []
    tokens, window, stride = (number(data.get(key)) for key in ("tokens", "window", "stride"))
    words += [f"{tokens:,.0f} tokens scored"] if tokens is not None else []
    words += [f"windows of {window:,.0f} tokens"] if window is not None else []
    words += [f"stride {stride:,.0f}"] if stride is not None else []
    if isinstance(data.get("bos"), bool):
        words.append(f"{'with' if data['bos'] else 'without'} a begin-of-text token in every window")
    return "Measured on " + ", ".join(words) + "." if words else ""


def samples(report: Report) -> str:
    """What the original and the compressed model write after the same prompts."""
    return page_section("Samples", "samples", *(_sample(row) for row in rows(report, "samples")))


def _sample(row: Report) -> str:
    first, last = str(row.get("original") or ""), str(row.get("compressed") or "")
    both = [(name, text) for name, text in (("Original", first), ("Compressed", last)) if text]
    columns = [
        tag("div", tag("h3", name), tag("p", esc(text.strip()), class_="text", dir="auto")) for name, text in both
    ]
    prompt = tag("h3", "Prompt") + tag("p", esc(row.get("prompt") or "(none)"), class_="text", dir="auto")
    common = note(_common(first, last)) if len(both) == 2 else ""
    return tag("div", prompt, tag("div", *columns, class_="split"), common)


def _common(first: str, last: str) -> str:
    if first == last:
        return "Both texts are the same."
    count = 0
    for one, other in zip(first.split(), last.split(), strict=False):
        if one != other:
            break
        count += 1
    if not count:
        return "The texts differ from the first word on."
    return f"The first {count} words are the same." if count > 1 else "The first word is the same."
