from __future__ import annotations

from collections.abc import Callable

import pytest

from contracts.errors import Conflict, InvalidInput, NotFound
from contracts.jobs import JobKind, JobStatus
from store.catalogue import Catalogue, Claim, ModelVersion
from tests.store.catalogue.conftest import CARD, manifest

D1, D2, D3 = "1" * 64, "2" * 64, "3" * 64


def claim(catalogue: Catalogue) -> Claim:
    job, _ = catalogue.insert_job(JobKind.TRAIN, {"name": "m"})
    taken = catalogue.claim_job(job.id, "w")
    assert taken is not None
    return taken


def publish(catalogue: Catalogue, name: str, digest: str, **parents: str) -> ModelVersion:
    version = catalogue.publish_version(
        claim(catalogue), name=name, digest=digest, manifest=manifest(parents=parents), card=CARD, size=7
    )
    assert version is not None
    return version


def test_publishing_ends_the_job_and_moves_latest(catalogue: Catalogue) -> None:
    taken = claim(catalogue)
    version = catalogue.publish_version(taken, name="m", digest=D1, manifest=manifest(4), card=CARD, size=7)
    assert version is not None
    assert (version.name, version.version, version.reference, version.aliases) == ("m", 1, "m@1", ("latest",))
    assert (version.digest, version.manifest, version.card, version.size) == (D1, manifest(4), CARD, 7)
    job = catalogue.get_job(taken.job.id)
    assert job.status is JobStatus.SUCCEEDED
    assert job.result == {"model": "m", "version": 1, "reference": "m@1", "digest": D1}
    assert [event.type for event in catalogue.events(job.id)] == ["queued", "claimed", "published", "succeeded"]
    assert publish(catalogue, "m", D2).version == 2
    assert catalogue.resolve("m").version == 2
    assert catalogue.resolve("m@1").aliases == ()


def test_an_attempt_publishes_once(catalogue: Catalogue) -> None:
    taken = claim(catalogue)
    arguments = {"name": "m", "digest": D1, "manifest": manifest(), "card": CARD, "size": 7}
    assert catalogue.publish_version(taken, **arguments) is not None
    assert catalogue.publish_version(taken, **arguments) is None
    assert [version.version for version in catalogue.list_versions("m")] == [1]


def test_a_superseded_attempt_does_not_publish(catalogue: Catalogue, advance: Callable[[float], None]) -> None:
    first = claim(catalogue)
    advance(31)
    second = catalogue.claim_job(first.job.id, "other")
    assert second is not None
    arguments = {"name": "m", "digest": D1, "manifest": manifest(), "card": CARD, "size": 7}
    assert catalogue.publish_version(first, **arguments) is None
    with pytest.raises(NotFound, match="none has been trained"):
        catalogue.resolve("m")
    published = catalogue.publish_version(second, **arguments)
    assert published is not None
    assert published.version == 1


def test_references(catalogue: Catalogue) -> None:
    publish(catalogue, "m", D1)
    publish(catalogue, "m", D2)
    catalogue.set_alias("m", "prod", 1)
    assert {each: catalogue.resolve(each).version for each in ("m", "m@latest", "m@2", "m@1", "m@prod")} == {
        "m": 2, "m@latest": 2, "m@2": 2, "m@1": 1, "m@prod": 1,
    }  # fmt: skip
    for wrong, told in {
        "m@3": "has no version 3; it has the versions 1, 2 and the aliases latest, prod",
        "m@99999999999999999999": "no version",
        "m@none": "has no alias 'none'",
        "m@": "has no alias ''",
        "m@1@2": "has no alias",
        "n": "there is no model 'n'; models are: m",
        "": "there is no model",
    }.items():
        with pytest.raises(NotFound, match=told):
            catalogue.resolve(wrong)


def test_names(catalogue: Catalogue) -> None:
    for name in ("a@b", "", "A", "-a", "a" * 64, "a b"):
        with pytest.raises(InvalidInput, match="no model name"):
            catalogue.import_version(name=name, digest=D1, manifest=manifest(), card=CARD, size=1)
    taken = claim(catalogue)
    with pytest.raises(InvalidInput):
        catalogue.publish_version(taken, name="a@b", digest=D1, manifest=manifest(), card=CARD, size=1)
    assert catalogue.renew_lease(taken).held


def test_aliases(catalogue: Catalogue) -> None:
    publish(catalogue, "m", D1)
    publish(catalogue, "m", D2)
    catalogue.set_alias("m", "latest", 1)  # a rollback
    assert catalogue.resolve("m").version == 1
    publish(catalogue, "m", D3)
    assert catalogue.resolve("m").version == 3
    catalogue.set_alias("m", "prod", 1)
    catalogue.set_alias("m", "prod", 2)
    assert catalogue.resolve("m@prod").version == 2
    catalogue.delete_alias("m", "prod")
    with pytest.raises(NotFound):
        catalogue.resolve("m@prod")
    with pytest.raises(NotFound, match="no alias 'prod'"):
        catalogue.delete_alias("m", "prod")
    with pytest.raises(Conflict, match="latest"):
        catalogue.delete_alias("m", "latest")
    with pytest.raises(NotFound, match="no version 9"):
        catalogue.set_alias("m", "prod", 9)
    for alias in ("7", "a@b", "", "Ä"):
        with pytest.raises(InvalidInput, match="no alias"):
            catalogue.set_alias("m", alias, 1)


def test_models_are_listed_by_pages(catalogue: Catalogue) -> None:
    for name in ("b", "a", "c", "a"):
        publish(catalogue, name, D1)
    summaries = catalogue.list_models()
    assert [(each.name, each.versions, each.latest) for each in summaries] == [
        ("a", (1, 2), 2),
        ("b", (1,), 1),
        ("c", (1,), 1),
    ]
    assert [each.name for each in catalogue.list_models(limit=1)] == ["a"]
    assert [each.name for each in catalogue.list_models(after="a")] == ["b", "c"]
    assert [version.version for version in catalogue.list_versions("a")] == [2, 1]
    with pytest.raises(NotFound):
        catalogue.list_versions("zz")


def test_a_deleted_number_is_not_given_again(catalogue: Catalogue) -> None:
    publish(catalogue, "m", D1)
    publish(catalogue, "m", D2)
    catalogue.delete_version("m", 2)
    assert catalogue.resolve("m").version == 1
    assert publish(catalogue, "m", D3).version == 3
    catalogue.delete_version("m", 1)
    catalogue.delete_version("m", 3)
    assert catalogue.list_models() == []
    with pytest.raises(NotFound):
        catalogue.delete_version("m", 3)
    with pytest.raises(NotFound):
        catalogue.delete_version("m", 2**40)
    assert publish(catalogue, "m", D1).version == 4


def test_versions_in_use_are_not_deleted(catalogue: Catalogue) -> None:
    publish(catalogue, "parent", D1)
    publish(catalogue, "child", D2, codes=D1)
    with pytest.raises(Conflict, match=r"parent of child@1"):
        catalogue.delete_version("parent", 1)
    publish(catalogue, "twin", D1)
    catalogue.delete_version("twin", 1)  # another version holds the same artifact
    catalogue.set_alias("child", "prod", 1)
    with pytest.raises(Conflict, match="alias prod"):
        catalogue.delete_version("child", 1)
    catalogue.delete_alias("child", "prod")
    assert catalogue.uses_artifact(D1)
    catalogue.delete_version("child", 1)
    catalogue.delete_version("parent", 1)
    assert not catalogue.uses_artifact(D1)


def test_import(catalogue: Catalogue) -> None:
    version = catalogue.import_version(name="m", digest=D1, manifest=manifest(), card=CARD, size=3)
    assert (version.version, version.aliases) == (1, ("latest",))
