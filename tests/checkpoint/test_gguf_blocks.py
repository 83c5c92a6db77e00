"""Block decoders: equal to the gguf library's, and to blocks packed by hand."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from tailorbird.checkpoint.gguf_blocks import BLOCKS, Bytes, decode, row_bytes
from tailorbird.errors import ModelError

SCALES_AT = {
    **{"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,)},
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)},
    **{"IQ4_NL": (0,), "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,), "Q1_0": (0,)},
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), (0,)),
}
ONE, TWO, HALF = (np.frombuffer(np.float16(value).tobytes(), np.uint8) for value in (1.0, 2.0, 0.5))


def random_blocks(name: str, blocks: int) -> Bytes:
    """Random codes with finite scales of both signs."""
    rng = np.random.default_rng(len(name) * 31 + blocks)
    raw = rng.integers(0, 256, (blocks, BLOCKS[name][1]), dtype=np.uint8)
    for at in SCALES_AT.get(name, ()):
        raw[:, at : at + 2] = rng.normal(size=(blocks, 1)).astype(np.float16).view(np.uint8)
    if name == "IQ1_M":  # the highest four bits of its half stand alone
        raw[:, 55] &= 0b10111111
    return raw


@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in ("F32", "F16", "Q1_0")])
def test_equals_the_reference_bit_for_bit(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    weights = BLOCKS[name][0]
    raw = random_blocks(name, 60).reshape(4, -1)
    want = gguf.quants.dequantize(raw, kind).astype(np.float32)
    got = decode(raw, name, (4, 15 * weights))
    same = (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))
    assert same.all() and got.dtype == np.float32
    assert (BLOCKS[name][0], BLOCKS[name][1]) == gguf.GGML_QUANT_SIZES[kind]


def test_plain_types() -> None:
    values = np.array([[0.0, -1.5, 2.0**-14, 3.0]], np.float32)
    assert np.array_equal(decode(values.view(np.uint8), "F32", (1, 4)), values)
    assert np.array_equal(decode(values.astype(np.float16).view(np.uint8), "F16", (1, 4)), values)
    high = np.ascontiguousarray((values.view(np.uint32) >> 16).astype(np.uint16))
    assert np.array_equal(decode(high.view(np.uint8), "BF16", (4,)), values[0])


def test_hand_packed_blocks_of_32() -> None:
    ramp = np.arange(16, dtype=np.uint8)
    packed = ramp | (15 - ramp) << 4  # first half counts up, second half down
    codes = np.concatenate([ramp, 15 - ramp]).astype(np.float32)
    fifth = np.array([0xFF, 0xFF, 0, 0], np.uint8)  # the first half gets 16 more
    lifted = codes + np.repeat([16.0, 0.0], 16)
    small = np.arange(-16, 16).astype(np.int8)
    cases = {
        "Q4_0": (np.concatenate([HALF, packed]), (codes - 8) * 0.5),
        "Q4_1": (np.concatenate([HALF, TWO, packed]), codes * 0.5 + 2),
        "Q5_0": (np.concatenate([TWO, fifth, packed]), (lifted - 16) * 2),
        "Q5_1": (np.concatenate([TWO, ONE, fifth, packed]), lifted * 2 + 1),
        "Q8_0": (np.concatenate([HALF, small.view(np.uint8)]), small * 0.5),
    }
    for name, (raw, want) in cases.items():
        assert np.array_equal(decode(raw, name, (32,)), want), name


def test_hand_packed_q2_k() -> None:
    raw = np.concatenate([np.full(16, 0x31, np.uint8), np.full(64, 0b11100100, np.uint8), TWO, HALF])
    want = np.repeat(np.tile([0.0, 1.0, 2.0, 3.0], 2), 32) * 2 - 3 * 0.5  # scale 1, minimum 3
    assert np.array_equal(decode(raw, "Q2_K", (256,)), want)


def test_hand_packed_q3_k() -> None:
    mask = np.full(32, 0b00000001, np.uint8)  # only the first run of 32 is not lowered by 4
    scales = np.zeros(12, np.uint8)
    scales[0], scales[8] = 0x53, 0b10  # scale 0 is 3 + 32, scale 8 is 5 + 0
    raw = np.concatenate([mask, np.full(64, 0b01, np.uint8), scales, ONE])
    codes = np.full((16, 16), -4.0)
    codes[[0, 1]] = 1.0
    codes[[8, 9]] = 1.0 - 4.0
    step = np.full((16, 1), -32.0)
    step[0], step[8] = 3.0, 5.0 - 32.0
    assert np.array_equal(decode(raw, "Q3_K", (256,)), (codes * step).ravel())


def test_hand_packed_q4_k_and_q5_k() -> None:
    six = np.zeros(12, np.uint8)
    six[0], six[4], six[8] = 0b11_111111, 0b01_000010, 0x21  # the upper two bits belong to sub-block 4
    steps = np.array([63.0, 0, 0, 0, 1 + 48, 0, 0, 0])
    minima = np.array([2.0, 0, 0, 0, 2 + 16, 0, 0, 0])
    codes = np.full(128, 0x97, np.uint8)  # 7 in even runs, 9 in odd ones
    runs = np.tile([7.0, 9.0], 4)
    raw = np.concatenate([TWO, HALF, six, codes])
    assert np.array_equal(decode(raw, "Q4_K", (256,)), np.repeat(2 * steps * runs - 0.5 * minima, 32))
    raw = np.concatenate([TWO, HALF, six, np.full(32, 0b00010000, np.uint8), codes])
    runs[4] += 16
    assert np.array_equal(decode(raw, "Q5_K", (256,)), np.repeat(2 * steps * runs - 0.5 * minima, 32))


def test_hand_packed_q6_k() -> None:
    low, high = np.full(128, 0xA5, np.uint8), np.full(64, 0b11100100, np.uint8)
    scales = np.arange(-8, 8).astype(np.int8)
    raw = np.concatenate([low, high, scales.view(np.uint8), HALF])
    codes = np.repeat(np.tile([5.0, 5 + 16, 10 + 32, 10 + 48], 2), 32) - 32
    assert np.array_equal(decode(raw, "Q6_K", (256,)), codes * np.repeat(scales, 16) * 0.5)


def test_refuses_unknown_types_and_wrong_sizes() -> None:
    with pytest.raises(ModelError, match="MXFP4 is not supported"):
        decode(np.zeros(17, np.uint8), "MXFP4", (32,))
    with pytest.raises(ModelError, match="not whole Q4_K blocks"):
        row_bytes("Q4_K", 100)
    with pytest.raises(ModelError, match="need 18 bytes, there are 17"):
        decode(np.zeros(17, np.uint8), "Q4_0", (32,))
