"""The native decoder computes what the family's own module computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import PlaneSpec
from tailorbird.formats.rows import FittedRows
from tailorbird.kernels.native import extension
from tailorbird.runtime import decoder
from tailorbird.runtime.decoder import NativeDecoder, Settings, native_decoder
from tailorbird.runtime.load import load
from tailorbird.runtime.modules import pack_module

FAMILIES = ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3"]
FAMILIES += ["llama-wide", "gemma3-wide"]
# Longer than the windows of the families that have one.
IDS = torch.randint(2, 90, (23,), generator=torch.Generator().manual_seed(1)).tolist()
EXACT = Settings("fp32", "bf16")


def native(model: Any, settings: Settings = EXACT) -> NativeDecoder:
    made = native_decoder(model.module, settings)
    assert made is not None
    return made


def distance(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_modules(family: str, pack_family: Any) -> None:
    model = load(pack_family(family), activations="fp32")
    wanted = model.logits(torch.tensor([IDS]))[0]
    # What is left is the rounding of keys and values to bfloat16.
    assert distance(native(model).start(64).push(IDS, len(IDS)), wanted) < 5e-3
    # And of activations, or of keys and values, to 8 bits: these models are small, random and rough.
    for settings in (Settings("int8", "bf16"), Settings("fp32", "int8")):
        assert distance(native(model, settings).start(64).push(IDS, len(IDS)), wanted) < 5e-2


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gemma3"])
def test_rows_in_classes_are_looked_up_and_predicted(family: str, pack_family: Any) -> None:
    packed = pack_family(family, rows=True)
    model = load(packed, activations="fp32")
    wanted = load(packed, dense=True).logits(torch.tensor([IDS]))[0]
    assert distance(model.logits(torch.tensor([IDS]))[0], wanted) < 1e-5
    assert distance(native(model).start(64).push(IDS, len(IDS)), wanted) < 5e-3
    whole = native(model, Settings("int8", "bf16")).start(64).push(IDS, 1)
    assert distance(whole, wanted[-1:]) < 5e-2


@pytest.mark.parametrize("groups", [(8, 8, 8), (8, 16, 8)])
def test_a_large_head_is_predicted_slice_by_slice(groups: tuple[int, ...], pack_family: Any) -> None:
    model = load(pack_family("llama"), activations="fp32")
    module = model.module
    width, rows = module.config.hidden_size, 10_001
    # Runs of 1,500 rows: a slice has two or three of the classes, and tiles of theirs reach into the next one.
    classes = (torch.arange(rows) // 1500 % 3).to(torch.uint8)
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(3))
    forms = [PlaneSpec.uniform(bits, width, size) for bits, size in zip((1, 3, 6), groups, strict=True)]
    fitted = [sweep(weight[classes == k], form, minmax) for k, form in enumerate(forms)]
    module.lm_head, module.model.embed_tokens = torch.nn.Linear(width, rows), torch.nn.Embedding(rows, width)
    for layer in (module.lm_head, module.model.embed_tokens):
        pack_module(layer, FittedRows(classes, fitted).pack(), "fp32")
    wanted = module(torch.tensor([IDS])).logits[0].detach()
    assert distance(native(model).start(64).push(IDS, len(IDS)), wanted) < 5e-3
    eight = native(model, Settings("int8", "bf16"))
    assert distance(eight.start(64).push(IDS, 20), wanted[-20:]) < 5e-2
    assert distance(eight.start(64).push(IDS, 1), wanted[-1:]) < 5e-2


@pytest.mark.parametrize("family", ["llama", "gemma3", "llama-wide", "gemma3-wide"])
@pytest.mark.parametrize("cache", ["bf16", "int8"])
def test_pieces_give_what_the_whole_gives(
    family: str, cache: Any, pack_family: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = native(load(pack_family(family)), Settings("int8", cache))
    whole = made.start(len(IDS)).push(IDS, len(IDS))
    text = made.start(len(IDS))
    assert torch.equal(torch.cat([text.push([token]) for token in IDS]), whole)
    monkeypatch.setattr(decoder, "PREFILL", 5)
    assert torch.equal(made.start(len(IDS)).push(IDS, 7), whole[-7:])


@pytest.mark.parametrize("family", ["llama-wide", "gemma2", "gemma3-wide"])
@pytest.mark.parametrize("cache", ["bf16", "int8"])
def test_threads_that_share_keys_change_nothing(family: str, cache: Any, pack_family: Any) -> None:
    """Two heads of keys: three threads divide the keys of long texts, two threads and one do not."""
    module = extension()
    assert module is not None
    made = native(load(pack_family(family)), Settings("int8", cache))
    ids = torch.randint(2, 90, (150,), generator=torch.Generator().manual_seed(2)).tolist()
    try:
        for threads in (1, 2, 3):
            module.set_threads(threads)
            if threads == 1:
                whole = made.start(len(ids)).push(ids, len(ids))
            text = made.start(len(ids))
            text.push(ids[:100])
            assert torch.equal(torch.cat([text.push([token]) for token in ids[100:]]), whole[100:])
    finally:
        module.set_threads(0)


def test_generation_goes_through_it(make_packed: Any) -> None:
    model = load(make_packed("gemma3"), activations="fp32")
    assert model.decoder is not None
    fast = "".join(model.generate("The tailorbird", 12))
    model.__dict__["decoder"] = None
    assert "".join(model.generate("The tailorbird", 12)) == fast


def test_what_it_can_not_is_left_to_the_module(make_packed: Any, pack_family: Any) -> None:
    assert native_decoder(load(make_packed("opt")).module, EXACT) is None
    unpacked = load(make_packed("llama"), dense=True)
    assert native_decoder(unpacked.module, EXACT) is None
    stretched = load(pack_family("llama"))
    stretched.module.model.rotary_emb.rope_type = "dynamic"
    assert native_decoder(stretched.module, EXACT) is None


def test_wrong_arguments_are_refused(pack_family: Any) -> None:
    made, shorter = native(load(pack_family("llama"))), load(pack_family("llama"))
    shorter.module.model.layers = shorter.module.model.layers[:2]
    other = native(shorter)
    cache = made.start(8).cache
    logits = np.empty((1, made.vocabulary), dtype=np.float32)

    def forward(tokens: list[int], start: int = 0, into: Any = cache, out: Any = logits) -> None:
        made.decoder.forward(np.array(tokens, dtype=np.int64), start, into, out, "fp32")

    for tokens in ([-1], [90], [2**40]):
        with pytest.raises(IndexError, match="vocabulary"):
            forward(tokens)
    for tokens, start in (([1] * 9, 0), ([1], 8), ([1], -1), ([1], 2**62), ([], 0)):
        with pytest.raises(ValueError, match="fit into the cache"):
            forward(tokens, start)
    with pytest.raises(ValueError, match="another decoder"):
        forward([1], into=other.start(8).cache)
    for shape in ((1, 89), (2, 90)):
        with pytest.raises(ValueError, match="wrong shape"):
            forward([1], out=np.empty(shape, dtype=np.float32))
    for capacity in (0, -1):
        with pytest.raises(ValueError, match="room"):
            made.start(capacity)
    forward([1], 7)


def test_layers_that_do_not_fit_are_refused(pack_family: Any) -> None:
    module = load(pack_family("llama")).module
    module.config.num_attention_heads = 3
    with pytest.raises(ValueError, match="heads"):
        native_decoder(module, EXACT)


def test_the_cache_counts_its_bytes(pack_family: Any) -> None:
    model = load(pack_family("llama"))
    layers, heads, dim = 3, 2, 8
    numbers = 2 * layers * heads * 16 * dim
    assert native(model, Settings("int8", "bf16")).start(16).cache.nbytes == 2 * numbers
    assert native(model, Settings("int8", "int8")).start(16).cache.nbytes == numbers + 4 * numbers // dim


def test_every_variant_decodes(pack_family: Any) -> None:
    module = extension()
    assert module is not None
    made = native(load(pack_family("gemma3")), Settings("int8", "bf16"))
    best = module.variant()
    found = []
    try:
        for name in module.variants():
            module.use_variant(name)
            found.append(made.start(32).push(IDS, 3))
    finally:
        module.use_variant(best)
    assert all(torch.equal(one, found[0]) for one in found)
