from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from contracts.data import Column, ColumnType, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput
from contracts.families import CONFIG_CLASSES, FamilyConfig, config_adapter

TABLE = DataSpec(
    modality="table", columns=(Column(name="a", type=ColumnType.REAL), Column(name="b", type=ColumnType.REAL))
)
CAPTION = Column(name="c", type=ColumnType.TEXT, role=Role.CAPTION)
PICTURES = DataSpec(modality="image", image=ImageShape(height=8, width=8), columns=(CAPTION,))
FAMILIES = sorted(CONFIG_CLASSES)
TABULAR = [family for family in FAMILIES if "table" in CONFIG_CLASSES[family].modalities]


def alone(family: str) -> dict[str, str]:
    """The least that a config says: its family, and the parents that it cannot do without."""
    fields = CONFIG_CLASSES[family].model_fields
    needed = {name: "parent@1" for name in CONFIG_CLASSES[family].parent_families if fields[name].is_required()}
    return {"family": family, **needed}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_alone_is_a_config(family: str) -> None:
    config = config_adapter.validate_python(alone(family))
    assert type(config) is CONFIG_CLASSES[family]
    assert config_adapter.validate_json(config.model_dump_json()) == config
    config.check_data(TABLE if family in TABULAR else PICTURES)


@pytest.mark.parametrize("family", FAMILIES)
def test_configs_are_closed_and_frozen(family: str) -> None:
    with pytest.raises(ValidationError, match="nonsense"):
        config_adapter.validate_python({"family": family, "nonsense": 1})
    config = config_adapter.validate_python(alone(family))
    with pytest.raises(ValidationError, match="frozen"):
        config.family = "other"


@pytest.mark.parametrize("family", FAMILIES)
def test_each_field_is_described_and_numbers_are_bounded(family: str) -> None:
    for name, field in CONFIG_CLASSES[family].model_fields.items():
        if name == "family":
            continue
        assert field.description, name
        schema = CONFIG_CLASSES[family].model_json_schema()["properties"][name]
        for option in schema.get("anyOf", [schema]):
            if option.get("type") in ("integer", "number"):
                assert {"minimum", "exclusiveMinimum"} & option.keys(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_data_that_no_family_takes(family: str) -> None:
    config: FamilyConfig = config_adapter.validate_python(alone(family))
    if "text" not in config.modalities:
        with pytest.raises(InvalidInput, match="text"):
            config.check_data(DataSpec(modality="text"))


@pytest.mark.parametrize("family", TABULAR)
def test_every_family_of_tables_takes_missing_cells(family: str) -> None:
    config: FamilyConfig = config_adapter.validate_python({"family": family})
    missing = Column(name="c", type=ColumnType.REAL, missing=True)
    config.check_data(TABLE.model_copy(update={"columns": (*TABLE.columns, missing)}))


def test_a_condition_needs_labels() -> None:
    label = Column(name="y", type=ColumnType.CATEGORICAL, role=Role.LABEL, categories=("0", "1"))
    labelled = TABLE.model_copy(update={"columns": (*TABLE.columns, label)})
    conditional = [name for name, each in CONFIG_CLASSES.items() if "condition" in each.model_fields]
    assert conditional
    for family in conditional:
        config: FamilyConfig = config_adapter.validate_python({"family": family, "condition": "label"})
        config.check_data(labelled)
        with pytest.raises(InvalidInput, match="no label column"):
            config.check_data(TABLE)
        partly = label.model_copy(update={"missing": True})
        with pytest.raises(InvalidInput, match="label column y may have empty cells"):
            config.check_data(TABLE.model_copy(update={"columns": (*TABLE.columns, partly)}))


def test_unknown_families_are_refused() -> None:
    with pytest.raises(ValidationError, match="family"):
        config_adapter.validate_python({"family": "perceptron"})
    assert all(issubclass(each, BaseModel) for each in CONFIG_CLASSES.values())


def test_a_vae_learns_faster_than_other_families_by_default() -> None:
    # measured, 3e-3 against 1e-3: more held-out nats on thyroid, mammography and cardio at 1,500 steps each, on
    # 8 x 8 digits and Fashion-MNIST after fewer steps
    assert config_adapter.validate_python({"family": "vae"}).learning_rate == 3e-3
    assert config_adapter.validate_python({"family": "flow"}).learning_rate == 1e-3
