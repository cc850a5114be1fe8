from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from contracts.errors import NameTaken, NotFound
from store.catalogue import Catalogue, Direction, DirectionRows

SPACE, OTHER = "a" * 64, "b" * 64
VECTOR = np.array([0.6, -0.8, 1e-300])


def direction(name: str = "smile", digest: str = "1" * 64, space: str = SPACE, **more: object) -> Direction:
    made = Direction(
        space=space,
        name=name,
        digest=digest,
        method="linear_probe",
        vector=VECTOR,
        bias=-0.25,
        scale=1.5,
        distance=2.0,
        accuracy=0.9,
        rows=DirectionRows(30, 20, 6, 4),
        model="faces@3",
        created_at=datetime.now(UTC),
    )
    return replace(made, **more)


def test_a_direction_is_kept_to_the_bit(catalogue: Catalogue) -> None:
    made = direction()
    stored, written = catalogue.insert_direction(made)
    assert written
    assert stored == replace(made, created_at=stored.created_at)
    np.testing.assert_array_equal(stored.vector, VECTOR)
    assert stored.vector.flags.writeable
    found = catalogue.get_direction(SPACE, "smile")
    assert found == stored
    np.testing.assert_array_equal(found.vector, VECTOR)
    assert catalogue.insert_direction(direction("plain", accuracy=None))[0].accuracy is None


def test_the_same_again_is_the_same_and_another_needs_replace(catalogue: Catalogue) -> None:
    first, _ = catalogue.insert_direction(direction())
    again, written = catalogue.insert_direction(direction(model="faces@4"))
    assert (again, written) == (first, False)
    other = direction(digest="2" * 64, bias=7.0, vector=np.array([1.0, 0.0]))
    with pytest.raises(NameTaken, match="replace"):
        catalogue.insert_direction(other)
    assert catalogue.get_direction(SPACE, "smile") == first
    replaced, written = catalogue.insert_direction(other, replace=True)
    assert written
    assert (replaced.bias, replaced.digest) == (7.0, "2" * 64)
    assert replaced.created_at >= first.created_at
    np.testing.assert_array_equal(catalogue.get_direction(SPACE, "smile").vector, [1.0, 0.0])


def test_names_belong_to_their_space(catalogue: Catalogue) -> None:
    catalogue.insert_direction(direction())
    with pytest.raises(NotFound, match=f"space {OTHER} has no direction 'smile'; none has been made there yet"):
        catalogue.get_direction(OTHER, "smile")
    elsewhere, written = catalogue.insert_direction(direction(digest="2" * 64, space=OTHER))
    assert written
    assert catalogue.get_direction(SPACE, "smile").digest == "1" * 64
    catalogue.delete_direction(SPACE, "smile")
    assert catalogue.get_direction(OTHER, "smile") == elsewhere
    with pytest.raises(NotFound):
        catalogue.delete_direction(SPACE, "smile")


def test_several_are_found_in_the_order_asked_for(catalogue: Catalogue) -> None:
    for name in ("smile", "age", "hat"):
        catalogue.insert_direction(direction(name))
    assert [each.name for each in catalogue.get_directions(SPACE, ["smile", "age"])] == ["smile", "age"]
    with pytest.raises(NotFound, match=r"no direction 'beard', 'x'; its directions are: age, hat, smile"):
        catalogue.get_directions(SPACE, ["age", "beard", "x"])


def test_directions_are_listed_by_pages(catalogue: Catalogue) -> None:
    for space, name in ((OTHER, "a"), (SPACE, "z"), (SPACE, "b"), (OTHER, "c")):
        catalogue.insert_direction(direction(name, space=space))
    everything = [(SPACE, "b"), (SPACE, "z"), (OTHER, "a"), (OTHER, "c")]
    assert [(each.space, each.name) for each in catalogue.list_directions()] == everything
    seen, after = [], None
    while page := catalogue.list_directions(limit=1, after=after):
        after = (page[0].space, page[0].name)
        seen.append(after)
    assert seen == everything
    assert [each.name for each in catalogue.list_directions(space=OTHER)] == ["a", "c"]
    assert [each.name for each in catalogue.list_directions(space=SPACE, after=(SPACE, "b"))] == ["z"]
    assert catalogue.list_directions(space="none") == []
