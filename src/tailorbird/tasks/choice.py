"""Multiple-choice tasks through lm-eval (extra ``eval``): its own by name, or questions in a local file, offline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tailorbird.errors import DataError, UsageError, require
from tailorbird.tasks.harness import Scorer, adapter

MAX_BYTES = 2**30
_FORM = 'a line is {"query": "text", "choices": ["text", ...], "gold": index of the right choice}'


def evaluate_choices(
    model: Scorer, tasks: Sequence[str], *, limit: int | None = None, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Accuracy on multiple-choice tasks.

    Args:
        model: a loaded language model.
        tasks: names of lm-eval's own tasks (their data comes from the Hub or its cache), or ``.jsonl`` files of rows
            ``{query, choices, gold}`` with an optional ``id``; a choice is scored after the query and one space.
        limit: only the first so many questions of each.
        seed: of lm-eval's own draws.

    Returns:
        By task: its metrics (``acc``: the choice with the largest probability; ``acc_norm``: the same by character),
        their standard errors as ``acc_stderr``, and ``n``, the questions asked.

    Raises:
        DataError: a file of the wrong form; the message names the line.
        UsageError: a name lm-eval doesn't know.
        MissingExtra: lm-eval is not installed.
    """
    files = {name: Path(name) for name in tasks if name.endswith(".jsonl")}
    local = {_label(path, name, files): questions(path) for name, path in files.items()}
    evaluator = require("lm_eval.evaluator", extra="eval")
    chosen: list[Any] = [_task(label, rows) for label, rows in local.items()]
    manager = require("lm_eval.tasks", extra="eval").TaskManager(include_defaults=len(files) < len(tasks))
    names = [name for name in tasks if name not in files]
    if unknown := [name for name in names if not manager.match_tasks([name])]:
        raise UsageError(
            f"lm-eval has no task {unknown[0]!r}",
            hint="`lm-eval ls tasks` shows them; or give a .jsonl file",
        )
    found = evaluator.simple_evaluate(
        model=adapter(model),
        tasks=[*chosen, *names],
        limit=limit,
        task_manager=manager,
        log_samples=False,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    return {name: _plain(row, found["n-samples"].get(name, {})) for name, row in found["results"].items()}


def questions(path: Path) -> list[dict[str, Any]]:
    """Read and check a file of questions.

    Raises:
        DataError: missing, too large, not UTF-8, or a row of another form; the message names the line.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file", hint="check the path")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES} bytes", hint="cut a sample")
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as cause:
        raise DataError(f"{path} is not UTF-8 text: {cause}", hint=_FORM) from None
    rows = [_question(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DataError(f"{path} holds no questions", hint=_FORM)
    return rows


def _question(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as cause:
        raise DataError(f"{path}, line {number}: not JSON: {cause}", hint=_FORM) from None
    row = row if isinstance(row, dict) else {}
    query, choices, gold = row.get("query"), row.get("choices"), row.get("gold")
    choices = choices if isinstance(choices, list) else []
    texts = all(isinstance(text, str) and text for text in [query, *choices])
    if not texts or type(gold) is not int or not 0 <= gold < len(choices):
        raise DataError(f"{path}, line {number}: not a question", hint=_FORM)
    return {"query": query, "choices": choices, "gold": gold}


def _label(path: Path, name: str, files: Mapping[str, Path]) -> str:
    """The file's name without its ending, or the whole path where two files have the same."""
    return path.stem if sum(other.stem == path.stem for other in files.values()) == 1 else name


def _task(label: str, rows: list[dict[str, Any]]) -> Any:
    datasets = require("datasets", extra="eval")
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    config = {
        "task": label,
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "test_split": "test",
        "output_type": "multiple_choice",
        # Functions, not templates: text with braces in it stays text.
        "doc_to_text": lambda row: row["query"],
        "doc_to_choice": lambda row: row["choices"],
        "doc_to_target": lambda row: row["gold"],
        "metric_list": metrics,
    }
    return require("lm_eval.api.task", extra="eval").ConfigurableTask(config=config)


def _plain(row: Mapping[str, Any], samples: Mapping[str, Any]) -> dict[str, float]:
    """lm-eval calls a metric ``acc,none``: the name and the filter it went through."""
    values = {key.removesuffix(",none"): value for key, value in row.items() if isinstance(value, int | float)}
    values.pop("sample_len", None)
    return values | {"n": samples.get("effective", 0)}
