"""Every law on every family, through ``tiny()``; never edited for a new family."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from contracts.artifact import AnswerKind, GraphSpec, Kind, Manifest, Verb
from contracts.data import DataProfile, DataSpec
from contracts.errors import VerbUnsupported
from contracts.families import CONFIG_CLASSES
from engine.kinds import program
from engine.model import Model
from engine.options import SessionOptions
from models import FAMILIES, build
from models.family import Batch, Family, FitStage, LossStage, Noise, Tiny
from workers.export import RANDOM_OPERATORS, example, export, frozen, operators
from workers.parity import BATCHES, parity, window_feed
from workers.publish import assemble

CASES = {f"{name}-{index}": (name, index) for name in FAMILIES for index in range(len(FAMILIES[name].tiny()))}


@dataclass(frozen=True)
class Rows:
    x: np.ndarray
    y: np.ndarray | None


@dataclass(frozen=True)
class Trained:
    tiny: Tiny
    family: Family[Any]
    profile: DataProfile
    rows: Rows
    folder: Path
    graphs: dict[str, GraphSpec]
    manifest: Manifest


def draw_rows(tiny: Tiny, count: int, seed: int) -> Rows:
    """Correlated rows that the spec allows, cut to its grid where cells are discrete; windows of tokens for texts."""
    spec, rng = tiny.spec, np.random.default_rng(seed)
    label = spec.label
    y = rng.integers(0, len(label.categories), count) if label is not None and label.categories else None
    if spec.modality == "text":
        return Rows(draw_windows(tiny, count, rng), y)
    flat = rng.standard_normal((count, spec.cells))
    flat[:, 1:] += 0.8 * flat[:, :-1]
    low, high = spec.bounds
    low, high = np.where(np.isfinite(low), low, 0), np.where(np.isfinite(high), high, 5)
    spread = np.clip(np.floor(low + (high - low + 1) * (flat / 6 + 0.5)), low, high)
    flat = np.where(spec.discrete, spread, flat)
    return Rows(flat.reshape(count, *spec.row_shape).astype(spec.dtype), y)


def draw_windows(tiny: Tiny, count: int, rng: np.random.Generator) -> np.ndarray:
    """Windows (count, C + 1) of documents over few tokens, ⊥ at both ends, -1 behind the end of short ones."""
    context = tiny.config.context
    end = 256 if tiny.config.tokens == "bytes" else tiny.config.vocabulary
    steps = rng.integers(0, 3, (count, context + 1))
    windows = 97 + np.cumsum(steps, axis=1) % 12
    windows[:, 0] = end
    lengths = rng.integers(2, 2 * context, count)
    place = np.arange(context + 1)
    windows[place == lengths[:, None]] = end
    return np.where(place > lengths[:, None], -1, windows)


def texts_of(windows: np.ndarray) -> list[str]:
    """The texts that windows hold, without their ends."""
    return [bytes(window[(window >= 0) & (window < 256)].tolist()).decode() for window in windows]


def profile_of(spec: DataSpec, rows: Rows) -> DataProfile:
    if spec.modality == "text":
        return DataProfile(len(rows.x), *(np.empty(0) for _ in range(4)))
    flat = rows.x.reshape(len(rows.x), -1).astype(np.float64)
    return DataProfile(len(flat), flat.mean(0), flat.std(0), flat.min(0), flat.max(0))


def batch_of(rows: Rows) -> Batch:
    return Batch(torch.from_numpy(rows.x), None if rows.y is None else torch.from_numpy(rows.y))


def make(tiny: Tiny, seed: int = 0) -> tuple[Family[Any], DataProfile, Rows]:
    rows = draw_rows(tiny, tiny.rows, seed=tiny.seed)
    parents = {role: train(parent)[0] for role, parent in tiny.parents.items()}
    torch.manual_seed(seed)
    profile = profile_of(tiny.spec, rows)
    return build(tiny.config, tiny.spec, profile, parents), profile, rows


def noise(step: int, rows: int, seed: int = 0) -> Noise:
    return Noise(seed, 0, step, rows=slice(0, rows), total=rows)


def train(tiny: Tiny) -> tuple[Family[Any], DataProfile, Rows, dict[str, tuple[float, float]]]:
    """Train every stage for the tiny case's steps; answer the first and last objective of each loss stage."""
    family, profile, rows = make(tiny)
    batch, valid = batch_of(rows), batch_of(draw_rows(tiny, 64, seed=tiny.seed + 1))
    objectives = {}
    for stage in family.stages():
        family.train()
        stage.start([batch])
        if isinstance(stage, FitStage):
            stage.fit([batch], [valid])
        elif isinstance(stage, LossStage):
            optimiser = torch.optim.Adam(stage.module.parameters(), lr=tiny.config.learning_rate)

            def score(stage: LossStage = stage, optimiser: torch.optim.Optimizer = optimiser) -> float:
                family.eval()
                with torch.no_grad():
                    # progress 1: past every warm-up, so that first and last are the same objective
                    value = float(stage.loss(batch, noise(999, len(batch)), 1.0).objective)
                family.train()
                return value

            first = score()
            for step in range(tiny.steps):
                optimiser.zero_grad()
                stage.loss(batch, noise(step, len(batch)), step / tiny.steps).objective.backward()
                optimiser.step()
                stage.after_step()
            objectives[stage.name] = (first, score())
        family.eval()
        stage.finish([batch])
    family.eval()
    return family, profile, rows, objectives


@pytest.fixture(scope="module", params=list(CASES))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    name, index = CASES[request.param]
    tiny = FAMILIES[name].tiny()[index]
    family, profile, rows, objectives = train(tiny)
    for stage, (first, last) in objectives.items():
        assert np.isfinite([first, last]).all(), f"{stage}: {first} → {last}"
        assert last < first, f"{stage}: the objective rose from {first} to {last}"
    folder = tmp_path_factory.mktemp(request.param)
    graphs = export(family, folder)
    manifest = assemble(family, folder, graphs=graphs, seed=0, steps=tiny.steps, dataset="0" * 64)
    return Trained(tiny, family, profile, rows, folder, graphs, manifest)


def test_the_registry_and_the_menu_list_the_same_families() -> None:
    assert set(FAMILIES) == set(CONFIG_CLASSES)


@pytest.mark.parametrize("case", CASES)
def test_every_none_is_resolved(case: str) -> None:
    name, index = CASES[case]
    family, _, _ = make(FAMILIES[name].tiny()[index])
    unresolved = [field for field, value in family.config.model_dump().items() if value is None]
    assert unresolved == []
    assert type(family.config) is CONFIG_CLASSES[name]


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_of_a_loss_gets_a_gradient(case: str) -> None:
    name, index = CASES[case]
    family, _, rows = make(FAMILIES[name].tiny()[index])
    batch = batch_of(rows)
    for stage in family.stages():
        stage.start([batch])
        if not isinstance(stage, LossStage):
            continue
        family.train()
        with torch.no_grad():
            # Layers that start at zero hide those before them; a step away from the start they must not.
            generator = torch.Generator().manual_seed(1)
            for parameter in stage.module.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        terms = stage.loss(batch, noise(0, len(batch)), 1.0)
        assert torch.isfinite(terms.objective)
        assert all(torch.isfinite(value).all() for value in terms.named.values())
        terms.objective.backward()
        without = [key for key, value in stage.module.named_parameters() if value.grad is None or not value.grad.any()]
        assert without == []


def test_held_out_scores_are_finite_and_one_per_row(trained: Trained) -> None:
    batch = batch_of(trained.rows)
    for stage in trained.family.stages():
        if isinstance(stage, FitStage):
            continue
        with torch.no_grad():
            scores = stage.held_out(batch, noise(0, len(batch)))
        assert scores.shape == (len(batch),)
        assert torch.isfinite(scores).all()


def graph_inputs(trained: Trained, graph: str, count: int) -> list[torch.Tensor]:
    feeds = []
    for tensor in trained.graphs[graph].inputs:
        if tensor.name == "x":
            feeds.append(torch.from_numpy(trained.rows.x[:count]))
        elif tensor.name == "y":
            assert trained.rows.y is not None
            feeds.append(torch.from_numpy(trained.rows.y[:count]))
        elif (tokens := window_feed(tensor, count, trained.rows.x)) is not None:
            feeds.append(torch.from_numpy(tokens))
        else:
            feeds.append(example(tensor, count, seed=5))
    return feeds


def outputs_of(module: torch.nn.Module, feeds: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        answer = module(*feeds)
    return [answer] if isinstance(answer, torch.Tensor) else list(answer)


def test_rows_do_not_depend_on_their_batch_mates(trained: Trained) -> None:
    for name, graph in frozen(trained.family).graphs().items():
        feeds = graph_inputs(trained, name, 5)
        whole = outputs_of(graph.module, feeds)
        order = torch.tensor([3, 0])
        part = outputs_of(graph.module, [value[order] for value in feeds])
        for tensor, a, b in zip(graph.outputs, whole, part, strict=True):
            torch.testing.assert_close(a[order], b, rtol=1e-4, atol=1e-4, msg=f"{name}.{tensor.name}")


def test_the_files_have_a_symbolic_batch_no_noise_of_their_own_and_no_traces(trained: Trained) -> None:
    for name, spec in trained.graphs.items():
        data = (trained.folder / spec.file).read_bytes()
        model = onnx.load_from_string(data)
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "B", f"{name}.{value.name}"
        assert not [op for op in operators(model) if op.startswith(RANDOM_OPERATORS)]
        assert re.findall(rb"[\w/.-]+\.py|/home/|/root/|/tmp/|site-packages|Traceback", data) == []
        assert str(Path.cwd()).encode() not in data


def test_onnx_answers_what_torch_answers(trained: Trained) -> None:
    assert BATCHES == (1, 2, 7)
    differences = parity(trained.family, trained.folder, trained.graphs, trained.rows)
    assert set(differences) == {f"{name}.{out.name}" for name, spec in trained.graphs.items() for out in spec.outputs}


def test_a_saved_state_gives_equal_outputs(trained: Trained) -> None:
    from safetensors.torch import load_file

    config = CONFIG_CLASSES[trained.manifest.family].model_validate(trained.manifest.config)
    torch.manual_seed(77)
    again = build(config, trained.tiny.spec, trained.profile, trained.family.parents_by_role)
    again.load_state_dict(load_file(trained.folder / "weights.safetensors"))
    assert again.config == trained.family.config
    before, after = frozen(trained.family).graphs(), frozen(again).graphs()
    for name in before:
        feeds = graph_inputs(trained, name, 4)
        outputs = zip(outputs_of(before[name].module, feeds), outputs_of(after[name].module, feeds), strict=True)
        for a, b in outputs:
            assert torch.equal(a, b), name
    for name, value in trained.family.constants().items():
        assert torch.equal(value, again.constants()[name]), name


def test_refused_verbs_say_why_and_name_another_family(trained: Trained) -> None:
    verbs = trained.family.verbs()
    assert set(verbs) == set(Verb)
    for verb, spec in verbs.items():
        if spec.supported:
            assert spec.refusal is None
        else:
            others = [name for name in FAMILIES if name != trained.manifest.family and name in (spec.refusal or "")]
            assert others, f"{verb}: {spec.refusal!r} names no family to use instead"


def test_the_engine_answers_the_verbs_that_the_manifest_promises(trained: Trained) -> None:
    spec, manifest = trained.tiny.spec, trained.manifest
    assert manifest.kind in Kind
    answers = program(Model.load(trained.folder, SessionOptions(threads=1)))
    x = trained.rows.x[:3]
    labels = trained.rows.y[:3] if trained.rows.y is not None and manifest.condition else None
    if spec.modality == "text":
        check_texts(answers, manifest, texts_of(x), labels)
        return
    hidden = np.zeros(x.shape, dtype=bool)
    hidden.reshape(3, -1)[:, -1] = True
    latents = np.zeros((3, manifest.latent_dimensions or 1))
    calls = {
        Verb.ENCODE: lambda: answers.encode(x, given=labels),
        Verb.DECODE: lambda: answers.decode(latents, given=labels),
        Verb.SAMPLE: lambda: answers.sample(3, seed=4, given=labels),
        Verb.LOG_PROB: lambda: answers.log_prob(x, seed=4, given=labels),
        Verb.PREDICT: lambda: answers.predict(x, hidden, seed=4, draws=2, given=labels),
    }
    for verb, ask in calls.items():
        if not manifest.supports(verb):
            with pytest.raises(VerbUnsupported, match=re.escape((manifest.verbs[verb].refusal or "")[:40])):
                ask()
            continue
        first, second = ask(), ask()
        if verb is Verb.ENCODE:
            assert first.vectors.shape == (3, manifest.latent_dimensions)
            assert np.isfinite(first.vectors).all()
            np.testing.assert_array_equal(first.vectors, second.vectors)
        elif verb is Verb.DECODE:
            assert first.shape == x.shape
            assert np.isfinite(first).all()
            np.testing.assert_array_equal(first, second)
        elif verb is Verb.SAMPLE:
            assert first.shape == x.shape
            assert first.dtype == spec.dtype
            spec.check(first)
            np.testing.assert_array_equal(first, second)
            other = answers.sample(3, seed=5, given=labels)
            assert not np.array_equal(first, other)
        elif verb is Verb.LOG_PROB:
            assert first.values.shape == (3,)
            assert np.isfinite(first.values).all()
            assert first.measure == manifest.measure
            assert first.kind in AnswerKind
            np.testing.assert_array_equal(first.values, second.values)
        else:
            assert first.mean.shape == first.std.shape == x.shape
            assert first.draws.shape == (3, 2, *spec.row_shape)
            assert first.log_prob.shape == (3,)
            shown = ~hidden
            np.testing.assert_allclose(first.mean[shown], x[shown].astype(np.float64), rtol=1e-6, atol=1e-6)
            np.testing.assert_array_equal(first.draws, second.draws)


def check_texts(answers: Any, manifest: Manifest, texts: list[str], labels: np.ndarray | None) -> None:
    """The law above for rows that are strings."""
    ask = {"given": labels}
    vectors = answers.encode(texts, **ask).vectors
    assert vectors.shape == (3, manifest.latent_dimensions)
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(vectors, answers.encode(texts, **ask).vectors)
    with pytest.raises(VerbUnsupported, match=re.escape((manifest.verbs[Verb.DECODE].refusal or "")[:40])):
        answers.decode(vectors, **ask)
    scored, again = answers.log_prob(texts, **ask), answers.log_prob(texts, **ask)
    assert (scored.measure, scored.kind) == (manifest.measure, AnswerKind.EXACT)
    assert np.isfinite(scored.values).all()
    np.testing.assert_array_equal(scored.values, again.values)
    drawn = answers.sample(3, seed=4, **ask)
    manifest.data.check(drawn)
    assert drawn.tolist() == answers.sample(3, seed=4, **ask).tolist() != answers.sample(3, seed=5, **ask).tolist()
    found = answers.extend(texts, seed=4, draws=2, max_tokens=5, given=labels)
    assert [text.startswith(texts[row // 2]) for row, text in enumerate(found.texts)] == [True] * 6
    assert found.log_prob.shape == (6,)
    assert np.isfinite(found.log_prob).all()
