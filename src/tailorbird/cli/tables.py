"""Tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from tailorbird.cli.job import claimed


def _table(*columns: str, left: int = 1, title: str | None = None) -> Table:
    made = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for index, name in enumerate(columns):
        made.add_column(name, justify="left" if index < left else "right", overflow="fold")
    return made


def plan_table(parts: Iterable[Mapping[str, Any]]) -> Table:
    """Roles and bits with their parts, weights, bytes; records as `inspect` has them."""
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for part in parts:
        rows.setdefault((part["role"], _code_bits(part["format"])), []).append(part)
    made = _table("role", "bits", "parts", "weights", "bytes", "stored bits", left=2)
    for (role, bits), members in rows.items():
        weights = sum(part["shape"][0] * part["shape"][1] for part in members)
        size = sum(part["bytes"] for part in members)
        made.add_row(role, bits, str(len(members)), f"{weights:,}", f"{size:,}", f"{8 * size / weights:.3f}")
    return made


def parts_table(parts: Iterable[Mapping[str, Any]]) -> Table:
    """Every part."""
    made = _table("part", "role", "shape", "bits", "bytes", "stored bits", left=2)
    for part in parts:
        shape = "x".join(map(str, part["shape"]))
        bits = _code_bits(part["format"])
        made.add_row(part["name"], part["role"], shape, bits, f"{part['bytes']:,}", f"{part['bits']:.3f}")
    return made


def methods_table(methods: Iterable[Mapping[str, Any]]) -> Table:
    """Every method."""
    made = _table("method", "title and paper", "status", "options with their defaults", left=4)
    for method in methods:
        options = ", ".join(f"{name}={_word(value)}" for name, value in method["options"].items())
        made.add_row(method["name"], f"{method['title']} ({method['paper']})", method["status"], options)
    return made


def changes_table(changes: Iterable[Mapping[str, Any]]) -> Table:
    """What an export had to put into another format."""
    made = _table("role", "from", "to", "parts", "bytes", "bytes then", "changes", "error", "error then", left=3)
    for row in changes:
        errors = [_share(row[name]) for name in ("lost", "artifact_error", "export_error")]
        made.add_row(row["role"], row["from"], row["to"], str(row["parts"]), *(f"{n:,}" for n in row["bytes"]), *errors)
    return made


def quality_table(found: Mapping[str, Any]) -> Table:
    """What `evaluate` found."""
    bos = "with" if found["bos"] else "without"
    title = (
        f"{found['text']}: {found['tokens']:,} tokens, window {found['window']}, stride {found['stride']}, {bos} BOS"
    )
    made = _table("measure", found["model"], *([found["reference"]] if found["reference"] else []), title=title)
    compared = found["reference"] is not None
    rows = [("perplexity", found["perplexity"], found["reference_perplexity"])]
    rows += [("KL from the original, nats", found["kl"], 0.0)] if compared else []
    rows += [("same top token", found["top1_agreement"], 1.0)] if compared else []
    for name, mine, theirs in rows:
        made.add_row(name, _figure(mine), *([_figure(theirs)] if compared else []))
    for task, metrics in found.get("tasks", {}).items():
        for name, value in metrics.items():
            made.add_row(f"{task}: {name}", _figure(value), *([""] if compared else []))
    return made


def outcome_table(report: Mapping[str, Any]) -> Table:
    """Original and compressed side by side, from a report's data."""
    model, artifact = report["model"], report["artifact"]
    quality = report.get("quality") or {}
    before, after = quality.get("original", {}), quality.get("compressed", {})
    made = _table("", "original", "compressed")
    made.add_row("bytes", f"{model['bytes']:,}", f"{artifact['bytes']:,}")
    made.add_row("honest bits a weight", _figure(model.get("bits")), _figure(artifact["bits"]))
    if told := claimed(report):
        name = f"bits of {told['parts']} parts as the paper counts"
        made.add_row(name, "", f"{told['paper_bits']:.4f} (honest: {told['bits']:.4f})")
    if report.get("milliseconds") is not None:
        made.add_row("milliseconds a token", "", _figure(report["milliseconds"]))
    if report.get("slower") is not None:
        made.add_row("times this machine was slower than its profile", "", _figure(report["slower"]))
    if after:
        made.add_row(
            f"perplexity ({quality['text']}, {quality['tokens']:,} tokens)",
            _figure(before.get("perplexity")),
            _figure(after.get("perplexity")),
        )
        made.add_row("KL from the original, nats", "", _figure(after.get("kl")))
        made.add_row("same top token", "", _figure(after.get("top1_agreement")))
    return made


def curve_table(points: Iterable[Mapping[str, Any]]) -> Table:
    """Sizes with what they are expected to lose, and what some of them were measured to."""
    made = _table("bytes", "bits a weight", "predicted KL, nats", "measured", left=0)
    for point in points:
        made.add_row(f"{point['bytes']:,}", *(_figure(point[name]) for name in ("bits", "predicted", "measured")))
    return made


def comparison_table(items: Sequence[Mapping[str, Any]]) -> Table:
    """Plans and artifacts side by side."""
    made = _table("", *(item["name"] for item in items))
    made.add_row("method", *(item["method"] for item in items))
    made.add_row("bytes of all files", *(_figure(item["bytes"]) for item in items))
    made.add_row("honest bits a weight", *(_figure(item["bits"]) for item in items))
    made.add_row("bytes of packed weights", *(_figure(item["packed_bytes"]) for item in items))
    made.add_row("their bits a weight", *(_figure(item["packed_bits"]) for item in items))
    for role in dict.fromkeys(role for item in items for role in item["roles"]):
        made.add_row(f"bits of {role}", *(_figure(item["roles"].get(role)) for item in items))
    for name, key in (("perplexity", "perplexity"), ("KL from the original, nats", "kl")):
        values = [(item["quality"] or {}).get(key) for item in items]
        if any(value is not None for value in values):
            made.add_row(name, *map(_figure, values))
    if any(item["milliseconds"] is not None for item in items):
        made.add_row("milliseconds a token", *(_figure(item["milliseconds"]) for item in items))
    return made


def difference_table(items: Sequence[Mapping[str, Any]]) -> Table:
    """Code bits of every part whose bits are not the same everywhere."""
    made = _table("part", *(item["name"] for item in items))
    for part in dict.fromkeys(part for item in items for part in item["parts"]):
        bits = [item["parts"].get(part) for item in items]
        if len(set(bits)) > 1:
            made.add_row(part, *(_figure(value) for value in bits))
    return made


def samples_text(report: Mapping[str, Any]) -> str:
    """What each of the two models writes."""
    lines = []
    for row in report.get("samples") or []:
        lines.append(f"prompt:     {row['prompt']}")
        for name in ("original", "compressed"):
            lines.append(f"{name + ':':<12}{'(not run)' if row.get(name) is None else ' '.join(row[name].split())}")
    return "\n".join(lines)


def _code_bits(form: Mapping[str, Any]) -> str:
    """Bits of a format's codes; where groups differ, their mean and range; of a sum, those of its terms; of classes of
    rows, how many rows have which."""
    if "terms" in form:
        return "+".join(_code_bits(term) for term in form["terms"])
    if "classes" in form:
        whole = sum(one["rows"] for one in form["classes"])
        return ", ".join(f"{_code_bits(one)}: {one['rows'] / whole:.0%}" for one in form["classes"])
    name, whole = ("half_bits", 2) if "half_bits" in form else ("bits", 1)
    if not isinstance(form[name], str):
        return f"{form[name] / whole:g}"
    each = [int(digit) / whole for digit in form[name]]
    return f"{sum(each) / len(each):.2f} ({min(each):g}-{max(each):g})"


def _figure(value: Any) -> str:
    return "-" if not isinstance(value, int | float) else f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3%}"


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
