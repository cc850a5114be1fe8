import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from contracts.errors import ArtifactCorrupt, Internal, InvalidInput, NotReady, TooLarge
from engine.model import Model
from engine.options import SessionOptions


@pytest.fixture
def folder(affine, tmp_path):
    for path in affine.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def load(folder, **options):
    return Model.load(folder, SessionOptions(threads=1, **options))


def test_run_answers_every_output_or_those_named(affine):
    model = affine.model()
    x = np.random.default_rng(0).normal(size=(3, 4))
    answer = model.run("forward", {"x": x})
    assert set(answer) == {"z", "log_prob"}
    assert answer["z"].shape == (3, 4)
    assert set(model.run("forward", {"x": x}, ["log_prob"])) == {"log_prob"}
    np.testing.assert_allclose(model.run("inverse", {"z": answer["z"]})["x"], x)


def test_what_is_over_the_budget_runs_in_parts(affine):
    x = np.random.default_rng(0).normal(size=(50, 4))
    whole, parted = affine.model(), affine.model(element_budget=30)
    assert parted.rows_per_run("forward") == 3
    np.testing.assert_allclose(parted.run("forward", {"x": x})["z"], whole.run("forward", {"x": x})["z"], rtol=1e-12)
    assert parted.counters["forward"].runs == 17
    assert whole.counters["forward"].runs == 1


def test_a_row_over_the_budget_is_refused(affine):
    with pytest.raises(TooLarge, match="element_budget"):
        affine.model(element_budget=5).run("forward", {"x": np.zeros((1, 4))})


def test_many_threads_share_a_session(affine):
    model = affine.model()
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(int(rng.integers(1, 9)), 4)) for _ in range(200)]
    expected = [affine.model().run("forward", {"x": x})["z"] for x in rows]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda x: model.run("forward", {"x": x})["z"], rows))
    for answer, truth in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, truth, rtol=1e-12)
    counters = model.counters["forward"]
    assert counters.requests == 200
    assert counters.rows == sum(map(len, rows))


def test_wrong_feeds_are_named(affine):
    model = affine.model()
    with pytest.raises(Internal, match="needs the input `x`"):
        model.run("forward", {"z": np.zeros((1, 4))})
    with pytest.raises(Internal, match="no graph `sideways`"):
        model.run("sideways", {})
    with pytest.raises(InvalidInput, match=r"`x` must have the shape \(B, 4\), got \(1, 3\)"):
        model.run("forward", {"x": np.zeros((1, 3))})
    with pytest.raises(InvalidInput, match="at least one row"):
        model.run("forward", {"x": np.zeros((0, 4))})


def test_inputs_of_unequal_length_are_refused(linear_gaussian):
    feeds = {"x": np.zeros((2, 4)), "shown": np.ones((3, 4), dtype=bool)}
    with pytest.raises(InvalidInput, match="equal numbers of rows"):
        linear_gaussian.model().run("posterior", feeds)


def test_memory_is_estimated_from_the_files(folder):
    model = load(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.onnx"))
    constants = (folder / "constants.safetensors").stat().st_size
    assert model.resident_bytes == 2 * size + 2 * (1 << 20) + constants


def test_sessions_are_made_when_first_run(folder):
    model = load(folder)
    (folder / "inverse.onnx").write_bytes(b"damaged after it was verified")
    model.run("forward", {"x": np.zeros((1, 4))})
    with pytest.raises(ArtifactCorrupt, match=r"inverse\.onnx"):
        model.run("inverse", {"z": np.zeros((1, 4))})


def test_a_closed_model_says_so(affine):
    model = affine.model()
    model.run("forward", {"x": np.zeros((1, 4))})
    model.close()
    with pytest.raises(NotReady, match="unloaded"):
        model.run("forward", {"x": np.zeros((1, 4))})


def test_a_missing_or_damaged_file_is_named(folder):
    (folder / "inverse.onnx").unlink()
    with pytest.raises(ArtifactCorrupt, match=r"inverse\.onnx"):
        load(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactCorrupt, match=r"manifest\.json"):
        load(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactCorrupt, match=r"manifest\.json"):
        load(folder)


def test_damaged_constants_are_named(folder):
    from safetensors.numpy import save_file

    save_file({"other": np.zeros(1)}, folder / "constants.safetensors")
    with pytest.raises(ArtifactCorrupt, match="holds no array"):
        load(folder)
    (folder / "constants.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtifactCorrupt, match="cannot be read"):
        load(folder)


def test_importing_the_engine_loads_nothing_heavy():
    code = (
        "import sys, engine.pool, engine.cache, engine.kinds, engine.similarity, engine.noise; "
        "print([m for m in ('torch', 'scipy', 'onnxruntime', 'redis', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
