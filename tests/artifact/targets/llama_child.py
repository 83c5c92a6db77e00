"""Run by a Python that has llama-cpp-python: what llama.cpp makes of a file. Arguments: the file, a request (JSON)."""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import llama_cpp
import numpy as np


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(level: int, text: bytes, data: Any) -> None:
    """llama.cpp writes a line per tensor."""


def main(path: str, request: dict[str, Any]) -> dict[str, Any]:
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    size = max(64, len(request["ids"]) + request["new"] + 8)
    model = llama_cpp.Llama(path, n_ctx=size, n_threads=1, logits_all=True, verbose=False)
    tokens = [model.tokenize(text.encode(), add_bos=True, special=True) for text in request["texts"]]
    back = [model.detokenize(ids).decode(errors="replace") for ids in tokens]
    model.eval(request["ids"])
    logits = np.array(model.scores[: len(request["ids"])], dtype=np.float32)
    model.reset()
    made = []
    for token in model.generate(request["ids"], temp=0.0, top_k=1):
        made.append(int(token))
        if len(made) == request["new"]:
            break
    np.save(request["logits"], logits)
    return {"tokens": tokens, "back": back, "made": made, "template": model.metadata.get("tokenizer.chat_template")}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
