"""What follows from a spec is computed once, and says nothing about which specs are equal."""

from __future__ import annotations

import pickle

from contracts.data import DataSpec, ImageShape


def spec(height: int = 4) -> DataSpec:
    return DataSpec(modality="image", image=ImageShape(height=height, width=5))


def test_equality_and_hash_are_of_the_fields() -> None:
    one, other = spec(), spec()
    assert one.discrete is one.discrete
    assert one == other
    assert one.bounds[0].size == other.bounds[0].size == 20
    assert one == other
    assert hash(one) == hash(other)
    assert one != spec(6)
    assert "derived" not in one.model_dump()


def test_copies_derive_anew() -> None:
    one = spec()
    assert one.cells == 20
    copied = one.model_copy(update={"image": ImageShape(height=2, width=2)})
    assert (copied.cells, copied.row_shape, len(copied.discrete)) == (4, (2, 2, 1), 4)
    assert one.cells == 20
    assert pickle.loads(pickle.dumps(one)).cells == 20
