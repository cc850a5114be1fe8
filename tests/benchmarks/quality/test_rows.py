"""Rows run whole on data that are always there, and the references beside ours are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from benchmarks.quality import __main__ as runner
from benchmarks.quality import data, report
from benchmarks.quality.ours import Run
from benchmarks.quality.peers.character_gpt import CONTEXT, CharacterGPT, sliding_nats
from benchmarks.quality.peers.gaussians import Gaussian
from benchmarks.quality.peers.made import MADE
from benchmarks.quality.recipe import Recipe
from benchmarks.quality.rows import anomalies, imputation

PREDICT = {
    "name": "predict-wine", "title": "Wine", "row": "imputation", "command": "-", "data": ["wine"],
    "models": [{"name": "pca", "config": {"family": "pca", "components": 12}, "budget": {}}],
    "peers": [{"name": "Gaussian", "peer": "gaussian"}, {"name": "IterativeImputer", "peer": "iterative"},
              {"name": "KNNImputer", "peer": "knn"}],
    "options": {"rows": 18, "samples": 10}, "minutes": 1, "expected": {},
    "bars": [{"says": "below both", "model": "pca", "metric": imputation.ERROR,
              "better_than": ["IterativeImputer", "KNNImputer"]}],
}  # fmt: skip


def test_a_row_trains_predicts_and_judges() -> None:
    finished = runner.measure(Recipe.model_validate(PREDICT), Run(threads=1))
    found = {(figure.metric, figure.model): figure for figure in finished.figures}
    assert len(found) == 6
    # 12 of 13 directions: the exact conditional of pca is the conditional Gaussian's, fitted by our trainer
    for metric in (imputation.ERROR, imputation.LOG_DENSITY):
        ours, gaussian = found[metric, "pca"].value, found[metric, "Gaussian"].value
        assert ours == pytest.approx(gaussian, abs=1e-2 * abs(gaussian))
    assert found[imputation.LOG_DENSITY, "pca"].kind == "exact"
    assert finished.bars[0].met
    assert "normalised RMSE" in report.block(Recipe.model_validate(PREDICT), finished)


def test_a_row_whose_data_are_not_here_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATENTSERVE_BENCH_DATA", str(tmp_path))
    assert runner.main(["vae-binarised-mnist"]) == 0
    assert "left out: binarized-mnist/binarized_mnist.npz is not under" in capsys.readouterr().out


def test_hidden_cells_leave_and_take_at_least_one() -> None:
    hidden = imputation.hide((2000, 3), seed=0)
    assert hidden.any(1).all()
    assert not hidden.all(1).any()
    assert hidden.mean() == pytest.approx(0.35, abs=0.03)  # 0.2, and one of three for the half without any


def test_anomalies_are_never_trained_on() -> None:
    x = np.arange(1000.0)[:, None]
    odd = x[:, 0] % 10 == 0
    rows = anomalies.split(x, odd, train_rows=500, test_rows=60, seed=0)
    assert len(rows.train) == 500
    assert not np.isin(rows.train, x[odd]).any()
    assert not np.isin(rows.train, rows.test).any()
    assert np.array_equal(rows.test[rows.anomaly], x[odd])
    assert (~rows.anomaly).sum() == 60


def test_the_conditional_gaussian_is_joint_over_marginal() -> None:
    x = data.table("wine")[:, :5]
    model = Gaussian.fit((x - x.mean(0)) / x.std(0))
    row = np.array([[0.3, -0.2, 0.8, 0.1, -1.0]])
    hidden = np.array([[False, True, False, True, False]])
    mean, log_prob = model.conditional(row, hidden)
    shown = ~hidden[0]
    joint = multivariate_normal(model.mean, model.covariance).logpdf(row[0])
    marginal = multivariate_normal(model.mean[shown], model.covariance[np.ix_(shown, shown)]).logpdf(row[0, shown])
    assert log_prob[0] == pytest.approx(joint - marginal)
    assert model.log_prob(row)[0] == pytest.approx(joint)
    # the mean of a Gaussian's conditional is also where it is highest
    moved = mean.copy()
    moved[0, 1] += 1e-3
    assert model.log_prob(mean)[0] > model.log_prob(moved)[0]


def test_the_plain_made_adds_up_to_one() -> None:
    made = MADE(6, width=40)
    every = ((np.arange(64)[:, None] >> np.arange(6)) & 1).astype(np.uint8)
    before = made.log_prob(every)
    assert np.exp(before).sum() == pytest.approx(1, abs=1e-5)
    made.fit(np.repeat(every[:1], 256, 0), every[:1], seconds=1.0, seed=0, threads=1)
    assert made.log_prob(every)[0] > before[0]
    assert np.exp(made.log_prob(every)).sum() == pytest.approx(1, abs=1e-5)


def test_a_character_is_scored_once_given_at_least_half_a_context() -> None:
    model = CharacterGPT(11).eval()
    text = torch.randint(11, (3 * CONTEXT + 17,), generator=torch.Generator().manual_seed(0))
    nats = sliding_nats(model, text)
    assert len(nats) == len(text) - 1
    with torch.no_grad():
        for place in (1, CONTEXT, CONTEXT + 1, 2 * CONTEXT + 3):
            start = max(0, -(-(place - CONTEXT) // (CONTEXT // 2)) * (CONTEXT // 2))
            alone = model.nats(text[None, start : place + 1])[0, -1]
            assert float(nats[place - 1]) == pytest.approx(float(alone), abs=1e-4)


def test_the_peers_of_pythae_are_bounded_by_what_they_descend() -> None:
    pytest.importorskip("pythae")
    from benchmarks.quality.peers.autoencoders import Autoencoder

    x = (np.random.default_rng(0).random((64, 28, 28, 1)) < 0.1).astype(np.uint8)
    model = Autoencoder("vae", latents=4)
    before = model.log_prob(x[:8], 20).mean()
    model.fit(x, x[:16], seconds=2.0, seed=0, threads=1)
    few, many = (model.log_prob(x[:8], samples).mean() for samples in (1, 200))
    assert before < few < many


def test_the_flows_of_zuko_take_the_size_they_are_given() -> None:
    pytest.importorskip("zuko")
    from benchmarks.quality.peers.flows import Flow

    x = np.random.default_rng(0).normal(size=(512, 3))
    for kind in ("nsf", "maf"):
        small, large = (Flow(kind, 3, parameters=size) for size in (10_000, 300_000))
        assert small.parameters < large.parameters
        before = small.log_prob(x).mean()
        small.fit(x, x[:100], seconds=2.0, seed=0, threads=1)
        assert small.log_prob(x).mean() > before
