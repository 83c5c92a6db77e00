from __future__ import annotations

from tailorbird.allocate.groups import dealt


def test_bits_are_dealt() -> None:
    assert dealt([1.0, 1.0, 1.0, 1.0], 8, 3.3, 1, 8) == (2, 2, 2, 2)
    assert dealt([100.0, 1.0], 4, 3.3, 1, 8) == (3, 1) and dealt([5.0], 3, 3.3, 1, 8) == (3,)
    assert dealt([1e30, 1.0], 16, 3.3, 1, 8) == (8, 8)


def test_half_bits_are_dealt() -> None:
    assert dealt([1.0, 1.0], 8, 1.95, 2, 8) == (4, 4)
    assert dealt([4.0, 1.0], 8, 1.95, 2, 8) == (5, 3)
    assert dealt([1e9, 1.0, 1.0], 12, 1.95, 2, 8) == (8, 2, 2)
    assert dealt([1.0], 20, 1.95, 2, 8) == (8,)
