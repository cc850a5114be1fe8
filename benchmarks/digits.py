"""Held-out log-probability of 8 x 8 digits, every family beside Gaussian baselines, on one split.

    python -m benchmarks.digits [--steps N] [--samples K]

Real data: the 1797 digits that scikit-learn brings along, 17 grey levels, split once by a seeded permutation into
1437 train, 180 valid and 180 test rows. Everything is scored as the probability of whole grey levels, in nats per
digit. Baselines are fitted on x + u and scored by log 1/K Σ p(x + u_k); models go the way of a training job (trainer,
ONNX export, engine) and are scored by the program that would serve them. Each is trained on `train`, chosen on
`valid` and read once on `test`; the standard errors are over test rows, and those of differences are paired.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from contracts.artifact import Verb
from contracts.data import DataProfile, DataSpec, ImageShape, Part
from contracts.families import config_adapter
from contracts.jobs import Budget
from engine.kinds import program
from engine.model import Model
from engine.options import SessionOptions
from metrics.densities import bits_per_dim, log_mean_exp, mean_log_prob
from models import build
from workers.export import export
from workers.publish import assemble
from workers.training.trainer import Plan, train

SPEC = DataSpec(modality="image", image=ImageShape(height=8, width=8, levels=17))
MODELS: dict[str, dict[str, Any]] = {
    "pca": {"family": "pca"},
    "autoencoder": {"family": "autoencoder"},
    "vae": {"family": "vae"},
    "flow, additive": {"family": "flow", "coupling": "additive"},
    "flow, affine": {"family": "flow", "coupling": "affine"},
}
FULL_GAUSSIAN = "full Gaussian"
FLOORS = (1e-3, 1e-2, 1e-1, 3e-1)
"""Added to the variances of a mixture's components; chosen on `valid`, since few rows overfit full covariances."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Rows:
    x: NDArray[np.uint8]
    y: NDArray[np.int64] | None = None


class Digits:
    """The one split, as the trainer reads datasets."""

    spec = SPEC

    def __init__(self) -> None:
        images = load_digits().images.astype(np.uint8)[..., None]
        order = np.random.default_rng(0).permutation(len(images))
        cut = {Part.TRAIN: slice(0, 1437), Part.VALID: slice(1437, 1617), Part.TEST: slice(1617, None)}
        self.parts = {part: images[order[place]] for part, place in cut.items()}

    def count(self, part: Part | None = None) -> int:
        return sum(len(rows) for name, rows in self.parts.items() if part in (None, name))

    def read(self, part: Part | None, indices: NDArray[np.int64] | slice) -> _Rows:
        rows = np.concatenate(list(self.parts.values())) if part is None else self.parts[part]
        return _Rows(rows[indices])

    def profile(self) -> DataProfile:
        flat = self.flat(Part.TRAIN)
        return DataProfile(len(flat), flat.mean(0), flat.std(0), flat.min(0), flat.max(0))

    def flat(self, part: Part) -> Floats:
        flat: Floats = self.parts[part].reshape(-1, SPEC.cells).astype(np.float64)
        return flat


@dataclass(frozen=True)
class Result:
    """``scores`` (test rows,) in nats, or None for a family without density."""

    name: str
    kind: str
    scores: Floats | None
    seconds: float
    note: str = ""


def baselines(digits: Digits, samples: int) -> list[Result]:
    """Gaussians with diagonal and full covariance, and the mixture of up to ten that is best on `valid`."""
    noise = np.random.default_rng(1)
    train_rows, valid = (digits.flat(part) for part in (Part.TRAIN, Part.VALID))
    spread = train_rows + noise.random(train_rows.shape)

    def score(model: GaussianMixture, rows: Floats) -> Floats:
        noise = np.random.default_rng(2)
        draws = np.stack([model.score_samples(rows + noise.random(rows.shape)) for _ in range(samples)])
        return log_mean_exp(draws)[0]

    def fitted(components: int, kind: str, floor: float) -> GaussianMixture:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return GaussianMixture(components, covariance_type=kind, reg_covar=floor, random_state=0).fit(spread)

    answer = []
    test = digits.flat(Part.TEST)
    for name, kind in (("diagonal Gaussian", "diag"), (FULL_GAUSSIAN, "full")):
        began = time.monotonic()
        model = fitted(1, kind, 1e-6)
        answer.append(Result(name, "lower_bound", score(model, test), time.monotonic() - began))
    began = time.monotonic()
    tried = [(k, floor, fitted(k, "full", floor)) for k in range(1, 11) for floor in FLOORS]
    k, floor, best = max(tried, key=lambda entry: float(score(entry[2], valid).mean()))
    note = f"{k} components, floor {floor:g}, chosen on valid"
    answer.append(Result("mixture of Gaussians", "lower_bound", score(best, test), time.monotonic() - began, note))
    return answer


def measure(name: str, config: dict[str, Any], digits: Digits, steps: int | None, samples: int) -> Result:
    """Train, export and score one family as a job and a gateway would."""
    import torch

    torch.manual_seed(0)
    family = build(config_adapter.validate_python(config), SPEC, digits.profile())
    result = train(family, digits, Plan(budget=Budget(steps=steps), accelerator="cpu"))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        assemble(family, place, graphs=export(family, place), seed=0, steps=result.steps, dataset="0" * 64)
        model = Model.load(place, SessionOptions())
        answerer, test = program(model), digits.parts[Part.TEST]
        back = answerer.decode(answerer.encode(test).vectors)
        # the deviation of all train cells is the unit, as in the autoencoder's own score
        error = float(((back - test) ** 2).mean() / digits.flat(Part.TRAIN).var())
        note = f"{result.steps} steps, reconstruction error {error:.3f} of the variance"
        if not model.manifest.supports(Verb.LOG_PROB):
            model.close()
            return Result(name, "none", None, result.seconds, note)
        parts = [answerer.log_prob(test[i : i + 60], seed=0, samples=samples) for i in range(0, len(test), 60)]
        model.close()
    scores = np.concatenate([part.values for part in parts])
    return Result(name, str(parts[0].kind), scores, result.seconds, note)


def show(results: list[Result]) -> None:
    """Print the table; each row's difference to the full Gaussian with its paired standard error."""
    reference = next(result.scores for result in results if result.name == FULL_GAUSSIAN)
    assert reference is not None
    table = Table("model", "kind", "nats", "bits/dim", "minus full Gaussian", "train s", "note")
    for result in results:
        if result.scores is None:
            table.add_row(result.name, result.kind, "", "", "", f"{result.seconds:.0f}", result.note)
            continue
        mean, difference = mean_log_prob(result.scores), mean_log_prob(result.scores - reference)
        table.add_row(
            result.name,
            result.kind,
            f"{mean.value:.2f} ± {mean.standard_error:.2f}",
            f"{float(bits_per_dim(mean.value, SPEC.cells)):.3f}",
            f"{difference.value:+.2f} ± {difference.standard_error:.2f}" if difference.value else "",
            f"{result.seconds:.0f}",
            result.note,
        )
    Console(width=max(140, Console().width)).print(table)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; ``arguments`` None reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digits", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=None, help="training steps; by default sized by the data")
    parser.add_argument("--samples", type=int, default=500, help="importance samples and draws of u per row")
    parser.add_argument("--only", nargs="*", default=list(MODELS), choices=list(MODELS), help="which models")
    given = parser.parse_args(arguments)
    digits = Digits()
    results = baselines(digits, min(given.samples, 50))
    for name in given.only:
        results.append(measure(name, MODELS[name], digits, given.steps, given.samples))
    print(f"8 x 8 digits, {digits.count(Part.TEST)} held-out rows, K = {given.samples}")
    show(results)


if __name__ == "__main__":
    main()
