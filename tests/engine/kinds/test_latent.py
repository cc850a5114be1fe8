import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from contracts.artifact import AnswerKind
from contracts.data import Measure
from contracts.errors import InvalidInput, VerbUnsupported
from engine.kinds import program
from tests.engine.conftest import LADDER

HIDDEN = np.array([True, False, True, False])


@pytest.fixture(scope="module")
def approximate(linear_gaussian):
    return program(linear_gaussian.model())


@pytest.fixture(scope="module")
def exact(exact_gaussian):
    return program(exact_gaussian.model())


@pytest.fixture(scope="module")
def ladder(ladder_gaussian):
    return program(ladder_gaussian.model())


def rows(oracle, count, seed=0):
    return np.random.default_rng(seed).multivariate_normal(oracle.mean, oracle.covariance, size=count)


def conditional(oracle, x, hidden):
    h, s = np.flatnonzero(hidden), np.flatnonzero(~hidden)
    gain = oracle.covariance[np.ix_(h, s)] @ np.linalg.inv(oracle.covariance[np.ix_(s, s)])
    mean = oracle.mean[h] + (x[:, s] - oracle.mean[s]) @ gain.T
    return mean, oracle.covariance[np.ix_(h, h)] - gain @ oracle.covariance[np.ix_(s, h)]


def test_encode_answers_the_posterior(approximate, linear_gaussian):
    x = rows(linear_gaussian, 5)
    encoding = approximate.encode(x)
    assert encoding.vectors.shape == (5, 2)
    assert encoding.log_scale.shape == (5, 2)
    # Widened by exp(1/4), as the fixture says; the scale is the same for every row.
    assert np.ptp(encoding.log_scale, axis=0).max() == 0


def test_decode_answers_the_mean_whatever_the_noise(approximate, linear_gaussian):
    z = np.random.default_rng(0).normal(size=(3, 2))
    decoded = approximate.decode(z)
    assert decoded.shape == (3, 4)
    np.testing.assert_array_equal(decoded, approximate.decode(z))
    np.testing.assert_allclose(approximate.decode(np.zeros((1, 2)))[0], linear_gaussian.mean)


def test_samples_have_the_models_moments(approximate, linear_gaussian):
    x = approximate.sample(20_000, seed=1)
    assert x.dtype == np.float64
    deviation = np.sqrt(np.diag(linear_gaussian.covariance))
    assert (np.abs(x.mean(axis=0) - linear_gaussian.mean) < 5 * deviation / np.sqrt(len(x))).all()
    np.testing.assert_allclose(np.cov(x.T), linear_gaussian.covariance, atol=0.05 * deviation.max() ** 2)


def test_a_sample_depends_on_seed_and_index_alone(approximate):
    whole = approximate.sample(50, seed=7)
    np.testing.assert_allclose(approximate.sample(5, seed=7, first=40), whole[40:45], rtol=1e-12)
    assert not np.isclose(approximate.sample(50, seed=8), whole).any()


def test_temperature_narrows_the_prior(approximate, linear_gaussian):
    cold = approximate.sample(4000, seed=0, temperature=0.0)
    np.testing.assert_allclose(cold.std(axis=0), 0.5, rtol=0.1)
    np.testing.assert_allclose(cold.mean(axis=0), linear_gaussian.mean, atol=0.06)


def test_a_mixture_prior_of_one_standard_normal_is_the_standard_normal(build):
    oracle = build("linear_gaussian", "real", "real", "real", "real", prior=True)
    model = program(oracle.model())
    x = rows(oracle, 3)
    plain = program(build("linear_gaussian", "real", "real", "real", "real").model())
    np.testing.assert_allclose(model.log_prob(x).values, plain.log_prob(x).values, rtol=1e-9)
    np.testing.assert_allclose(np.cov(model.sample(20_000, seed=0).T), oracle.covariance, atol=0.3)


def test_importance_weights_reach_the_exact_log_density(approximate, linear_gaussian):
    x = rows(linear_gaussian, 8)
    truth = multivariate_normal(linear_gaussian.mean, linear_gaussian.covariance).logpdf(x)
    answer = approximate.log_prob(x, samples=4000)
    assert answer.kind is AnswerKind.LOWER_BOUND
    assert answer.measure is Measure.DENSITY
    assert answer.samples == 4000
    assert (np.abs(answer.values - truth) < 5 * answer.standard_error + 1e-9).all()
    assert answer.standard_error.max() < 0.05


def test_the_bound_tightens_with_samples(approximate, linear_gaussian):
    x = rows(linear_gaussian, 200)
    truth = multivariate_normal(linear_gaussian.mean, linear_gaussian.covariance).logpdf(x).mean()
    means = [approximate.log_prob(x, samples=count).values.mean() for count in (1, 8, 256)]
    assert means[0] < means[1] < means[2] < truth + 0.01


def test_hidden_cells_are_integrated_out(approximate, linear_gaussian):
    x = rows(linear_gaussian, 4)
    hidden = np.tile(HIDDEN, (4, 1))
    shown = np.flatnonzero(~HIDDEN)
    truth = multivariate_normal(linear_gaussian.mean[shown], linear_gaussian.covariance[np.ix_(shown, shown)]).logpdf(
        x[:, shown]
    )
    x[hidden] = np.nan
    answer = approximate.log_prob(x, hidden=hidden, samples=5000)
    assert (np.abs(answer.values - truth) < 5 * answer.standard_error + 1e-9).all()
    nothing = approximate.log_prob(x, hidden=np.ones_like(hidden))
    assert (nothing.values == 0).all()


def test_the_standard_error_tells_the_spread_over_seeds(approximate, linear_gaussian):
    x = rows(linear_gaussian, 1)
    answers = [approximate.log_prob(x, seed=seed, samples=100) for seed in range(200)]
    spread = np.std([answer.values[0] for answer in answers])
    claimed = np.mean([answer.standard_error[0] for answer in answers])
    assert 0.8 < spread / claimed < 1.25


def test_a_closed_form_density_is_exact(exact, exact_gaussian):
    x = rows(exact_gaussian, 6)
    answer = exact.log_prob(x)
    truth = multivariate_normal(exact_gaussian.mean, exact_gaussian.covariance)
    np.testing.assert_allclose(answer.values, truth.logpdf(x), rtol=1e-9)
    assert (answer.kind, answer.samples, answer.standard_error) == (AnswerKind.EXACT, None, None)
    hidden = np.zeros_like(x, dtype=bool)
    hidden[::2] = HIDDEN
    mixed = exact.log_prob(x, hidden=hidden)
    assert mixed.kind is AnswerKind.EXACT
    np.testing.assert_allclose(mixed.values[1::2], truth.logpdf(x)[1::2], rtol=1e-9)


@pytest.mark.parametrize("name", ["exact", "approximate"])
def test_predict_is_the_exact_conditional(name, request):
    model = request.getfixturevalue(name)
    oracle = request.getfixturevalue({"exact": "exact_gaussian", "approximate": "linear_gaussian"}[name])
    x = rows(oracle, 3)
    hidden = np.tile(HIDDEN, (3, 1))
    mean, covariance = conditional(oracle, x, HIDDEN)
    deviation = np.sqrt(np.diag(covariance))
    samples = None if name == "exact" else 4000
    answer = model.predict(np.where(hidden, np.nan, x), hidden, draws=400, samples=samples, seed=3)
    loose = 1e-9 if name == "exact" else 0.25
    np.testing.assert_allclose(answer.mean[:, HIDDEN], mean, atol=loose * deviation.max())
    np.testing.assert_allclose(answer.std[:, HIDDEN], np.tile(deviation, (3, 1)), rtol=max(loose, 1e-9))
    np.testing.assert_array_equal(answer.mean[:, ~HIDDEN], x[:, ~HIDDEN])
    np.testing.assert_array_equal(answer.draws[..., ~HIDDEN], np.repeat(x[:, None, ~HIDDEN], 400, axis=1))
    assert answer.std[:, ~HIDDEN].max() == 0
    assert answer.kind is (AnswerKind.EXACT if name == "exact" else AnswerKind.ESTIMATE)
    np.testing.assert_allclose(answer.draws[..., HIDDEN].mean(axis=1), mean, atol=0.3 * deviation.max() + loose)
    scored = model.predict(x, hidden, samples=samples, score_inputs=True)
    truth = [multivariate_normal(m, covariance).logpdf(row) for m, row in zip(mean, x[:, HIDDEN], strict=True)]
    error = 1e-8 if scored.standard_error is None else 5 * scored.standard_error
    assert scored.log_prob_at == "inputs"
    assert (np.abs(scored.log_prob - truth) < error).all()
    assert answer.log_prob_at == "mean"
    peak = multivariate_normal(np.zeros(2), covariance).logpdf(np.zeros(2))
    np.testing.assert_allclose(answer.log_prob, peak, atol=1e-8 if name == "exact" else 0.3)
    if name == "approximate":
        assert ((answer.effective_sample_size > 50) & (answer.effective_sample_size <= 4000)).all()


def test_a_row_without_hidden_cells_predicts_itself(exact, approximate, exact_gaussian):
    x = rows(exact_gaussian, 2)
    for model in (exact, approximate):
        answer = model.predict(x, np.zeros_like(x, dtype=bool), draws=2)
        np.testing.assert_array_equal(answer.mean, x)
        np.testing.assert_array_equal(answer.draws, np.stack((x, x), axis=1))
        assert (answer.log_prob == 0).all()


def test_a_rows_answer_does_not_depend_on_its_batch(approximate, exact, linear_gaussian):
    x = rows(linear_gaussian, 9)
    rng = np.random.default_rng(0)
    hidden = rng.random(x.shape) < 0.4
    hidden[0] = False
    for model in (approximate, exact):
        together, score = model.predict(x, hidden, draws=3, samples=50), model.log_prob(x, hidden=hidden, samples=50)
        order = rng.permutation(9)[:4]
        apart, part = (
            model.predict(x[order], hidden[order], draws=3, samples=50),
            model.log_prob(x[order], hidden=hidden[order], samples=50),
        )
        np.testing.assert_allclose(apart.mean, together.mean[order], rtol=1e-9)
        np.testing.assert_allclose(apart.draws, together.draws[order], rtol=1e-9)
        np.testing.assert_allclose(apart.log_prob, together.log_prob[order], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(part.values, score.values[order], rtol=1e-9)
        alone = model.log_prob(x[:1], samples=50)
        np.testing.assert_allclose(alone.values, score.values[:1], rtol=1e-9)


def test_small_budgets_change_nothing(linear_gaussian, approximate):
    x = rows(linear_gaussian, 5)
    hidden = np.tile(HIDDEN, (5, 1))
    tight = program(linear_gaussian.model(element_budget=64))
    wide, narrow = (m.predict(x, hidden, draws=2, samples=30) for m in (approximate, tight))
    np.testing.assert_allclose(narrow.mean, wide.mean, rtol=1e-9)
    np.testing.assert_allclose(narrow.draws, wide.draws, rtol=1e-9)
    np.testing.assert_allclose(tight.sample(30, seed=0), approximate.sample(30, seed=0), rtol=1e-9)


@pytest.fixture(scope="module", params=[True, False], ids=["closed form", "importance"])
def oracle(request, build):
    return build("linear_gaussian", "integer", "integer", exact=request.param, centre=7.0, sigma=1.0, latents=1)


class TestDiscrete:
    """Integer cells: probabilities on unit bins of a Gaussian in two cells, known by its distribution function."""

    def probability(self, oracle, cells):
        gaussian = multivariate_normal(oracle.mean, oracle.covariance)
        return gaussian.cdf(cells + 1.0, lower_limit=cells)

    def test_log_prob_is_the_mass_of_the_bin(self, oracle):
        model = program(oracle.model())
        x = np.floor(rows(oracle, 5))
        answer = model.log_prob(np.clip(x, 0, 15), samples=3000)
        truth = np.log([self.probability(oracle, row) for row in np.clip(x, 0, 15)])
        assert answer.kind is AnswerKind.LOWER_BOUND
        assert answer.measure is Measure.PROBABILITY
        assert (np.abs(answer.values - truth) < 5 * answer.standard_error + 1e-3).all()

    def test_marginal_of_a_shown_cell(self, oracle):
        model = program(oracle.model())
        x, hidden = np.array([[7.0, 3.0]]), np.array([[False, True]])
        answer = model.log_prob(x, hidden=hidden, samples=3000)
        marginal = norm(oracle.mean[0], np.sqrt(oracle.covariance[0, 0]))
        truth = np.log(marginal.cdf(8) - marginal.cdf(7))
        assert abs(answer.values[0] - truth) < 5 * answer.standard_error[0] + 1e-3

    def test_predictions_are_whole_numbers_in_bounds(self, oracle):
        model = program(oracle.model())
        x, hidden = np.array([[7.0, 3.0]]), np.array([[False, True]])
        answer = model.predict(x, hidden, draws=500, samples=500)
        grid = np.arange(16.0)
        masses = np.array([self.probability(oracle, np.array([7.0, value])) for value in grid])
        masses /= masses.sum()
        truth = masses @ grid
        deviation = np.sqrt(masses @ (grid - truth) ** 2)
        assert answer.kind is AnswerKind.ESTIMATE
        assert (answer.draws == np.floor(answer.draws)).all()
        assert answer.draws.min() >= 0
        assert answer.draws.max() <= 15
        assert abs(answer.mean[0, 1] - truth) < 0.25 * deviation
        assert abs(answer.draws[0, :, 1].mean() - truth) < 0.3 * deviation
        assert abs(answer.std[0, 1] / deviation - 1) < 0.2
        scored = model.predict(x, hidden, samples=3000, score_inputs=True)
        assert abs(scored.log_prob[0] - np.log(masses[3])) < 5 * scored.standard_error[0] + 0.02

    def test_samples_are_whole_numbers(self, oracle):
        x = program(oracle.model()).sample(50, seed=0)
        assert (x == np.floor(x)).all()


def test_a_hidden_category_is_answered_by_a_code(build):
    for exact in (True, False):
        oracle = build("linear_gaussian", "real", "categorical", exact=exact, centre=1.0)
        answer = program(oracle.model()).predict(
            np.array([[1.0, 0.0]]), np.array([[False, True]]), draws=20, samples=50
        )
        assert answer.mean[0, 1] in (0, 1, 2)
        assert set(answer.draws[0, :, 1]) <= {0.0, 1.0, 2.0}


def test_hidden_cells_do_not_touch_the_encoding(approximate, linear_gaussian):
    x = rows(linear_gaussian, 2)
    hidden = np.tile(HIDDEN, (2, 1))
    first = approximate.encode(x, hidden=hidden).vectors
    x[hidden] = np.nan
    np.testing.assert_array_equal(approximate.encode(x, hidden=hidden).vectors, first)


class TestGroups:
    """Latents in groups, told by the graphs ``infer`` and ``prior``: x is the Gaussian that it is without them."""

    def test_the_bound_tightens_to_the_exact_log_density(self, ladder, ladder_gaussian):
        x = rows(ladder_gaussian, 100)
        truth = multivariate_normal(ladder_gaussian.mean, ladder_gaussian.covariance).logpdf(x)
        means = [ladder.log_prob(x, samples=count).values.mean() for count in (1, 8, 256)]
        assert means[0] < means[1] < means[2] < truth.mean() + 0.01
        answer = ladder.log_prob(x[:8], samples=4000)
        assert answer.kind is AnswerKind.LOWER_BOUND
        assert (np.abs(answer.values - truth[:8]) < 5 * answer.standard_error + 1e-9).all()
        assert answer.standard_error.max() < 0.05

    def test_hidden_cells_are_integrated_out(self, ladder, ladder_gaussian):
        x = rows(ladder_gaussian, 4)
        hidden = np.tile(HIDDEN, (4, 1))
        shown = np.flatnonzero(~HIDDEN)
        marginal = multivariate_normal(
            ladder_gaussian.mean[shown], ladder_gaussian.covariance[np.ix_(shown, shown)]
        ).logpdf(x[:, shown])
        answer = ladder.log_prob(np.where(hidden, np.nan, x), hidden=hidden, samples=5000)
        assert (np.abs(answer.values - marginal) < 5 * answer.standard_error + 1e-9).all()

    def test_predict_is_the_exact_conditional(self, ladder, ladder_gaussian):
        x = rows(ladder_gaussian, 3)
        hidden = np.tile(HIDDEN, (3, 1))
        mean, covariance = conditional(ladder_gaussian, x, HIDDEN)
        deviation = np.sqrt(np.diag(covariance))
        answer = ladder.predict(np.where(hidden, np.nan, x), hidden, draws=400, samples=4000, seed=3)
        np.testing.assert_allclose(answer.mean[:, HIDDEN], mean, atol=0.25 * deviation.max())
        np.testing.assert_allclose(answer.std[:, HIDDEN], np.tile(deviation, (3, 1)), rtol=0.25)
        np.testing.assert_allclose(answer.draws[..., HIDDEN].mean(axis=1), mean, atol=0.3 * deviation.max())
        scored = ladder.predict(x, hidden, samples=4000, score_inputs=True)
        truth = [multivariate_normal(m, covariance).logpdf(row) for m, row in zip(mean, x[:, HIDDEN], strict=True)]
        assert (np.abs(scored.log_prob - truth) < 5 * scored.standard_error).all()

    def test_a_rows_answer_does_not_depend_on_its_batch(self, ladder, ladder_gaussian):
        x = rows(ladder_gaussian, 9)
        hidden = np.random.default_rng(0).random(x.shape) < 0.4
        tight = program(ladder_gaussian.model(element_budget=64))
        together, tight = (
            model.predict(x[part], hidden[part], draws=3, samples=50, score_inputs=True)
            for model, part in ((ladder, slice(None)), (tight, slice(4, 6)))
        )
        np.testing.assert_allclose(tight.mean, together.mean[4:6], rtol=1e-9)
        np.testing.assert_allclose(tight.draws, together.draws[4:6], rtol=1e-9)
        np.testing.assert_allclose(tight.log_prob, together.log_prob[4:6], rtol=1e-7, atol=1e-9)

    def test_a_row_is_encoded_at_the_middle_of_its_posterior(self, ladder, approximate, ladder_gaussian):
        x = rows(ladder_gaussian, 5)
        encoding = ladder.encode(x)
        np.testing.assert_allclose(encoding.vectors, approximate.encode(x).vectors @ LADDER, rtol=1e-9)
        assert encoding.log_scale is None
        np.testing.assert_allclose(ladder.decode(encoding.vectors), approximate.decode(approximate.encode(x).vectors))
        hidden = np.tile(HIDDEN, (5, 1))
        first = ladder.encode(x, hidden=hidden).vectors
        np.testing.assert_array_equal(ladder.encode(np.where(hidden, np.nan, x), hidden=hidden).vectors, first)

    def test_samples_have_the_models_moments(self, ladder, ladder_gaussian):
        x = ladder.sample(20_000, seed=1)
        deviation = np.sqrt(np.diag(ladder_gaussian.covariance))
        assert (np.abs(x.mean(axis=0) - ladder_gaussian.mean) < 5 * deviation / np.sqrt(len(x))).all()
        np.testing.assert_allclose(np.cov(x.T), ladder_gaussian.covariance, atol=0.05 * deviation.max() ** 2)
        np.testing.assert_allclose(ladder.sample(5, seed=1, first=40), x[40:45], rtol=1e-12)

    def test_each_group_has_a_temperature_of_its_own(self, ladder, ladder_gaussian):
        assert ladder.groups == 2
        one, both = ladder.sample(50, seed=2, temperature=0.5), ladder.sample(50, seed=2, temperature=[0.5, 0.5])
        np.testing.assert_array_equal(one, both)
        directions = ladder.decode(LADDER) - ladder_gaussian.mean
        for temperature, kept in (([0.0, 0.0], []), ([1.0, 0.0], [0]), ([0.0, 1.0], [1])):
            x = ladder.sample(4000, seed=0, temperature=temperature)
            spread = directions[kept].T @ directions[kept] + 0.25 * np.eye(4)
            np.testing.assert_allclose(np.cov(x.T), spread, atol=0.1 * spread.max())

    @pytest.mark.parametrize("temperature", [[1.0], 1.0, (1.0, 1.0)])
    def test_a_list_of_one_is_for_every_group(self, ladder, temperature):
        np.testing.assert_array_equal(ladder.sample(3, seed=0, temperature=temperature), ladder.sample(3, seed=0))

    def test_wrong_temperatures(self, ladder, approximate):
        with pytest.raises(InvalidInput, match="one for each of 2 groups, got 3"):
            ladder.sample(1, seed=0, temperature=[1.0, 1.0, 1.0])
        with pytest.raises(InvalidInput, match="takes one temperature, got 2"):
            approximate.sample(1, seed=0, temperature=[1.0, 1.0])
        with pytest.raises(InvalidInput, match="at least 0"):
            ladder.sample(1, seed=0, temperature=[1.0, -1.0])
        with pytest.raises(InvalidInput, match="takes one"):
            ladder.sample(1, seed=0, temperature=[])


class TestRefusals:
    def test_wrong_rows(self, approximate):
        with pytest.raises(InvalidInput, match="shape"):
            approximate.encode(np.zeros((2, 3)))
        with pytest.raises(InvalidInput, match="at least one row"):
            approximate.encode(np.zeros((0, 4)))
        with pytest.raises(InvalidInput, match="shape"):
            approximate.encode(np.array(1.0))
        with pytest.raises(InvalidInput, match=r"inputs\[1\].c2"):
            approximate.encode(np.array([[0.0] * 4, [0, 0, np.nan, 0]]))
        with pytest.raises(InvalidInput, match="mask"):
            approximate.log_prob(np.zeros((2, 4)), hidden=np.zeros((2, 3), dtype=bool))
        with pytest.raises(InvalidInput, match="numbers"):
            approximate.encode(np.array([["a"] * 4]))

    def test_wrong_vectors(self, approximate):
        with pytest.raises(InvalidInput, match=r"\(rows, 2\)"):
            approximate.decode(np.zeros((1, 3)))
        with pytest.raises(InvalidInput, match=r"inputs\[1\]"):
            approximate.decode(np.array([[0.0, 0.0], [np.inf, 0.0]]))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"n": 0}, "n must"),
            ({"n": 1, "temperature": -1.0}, "temperature"),
            ({"n": 1, "temperature": float("nan")}, "temperature"),
            ({"n": 1, "first": -1}, "first"),
            ({"n": 1, "given": np.array([0])}, "not trained on a condition"),
        ],
    )
    def test_wrong_samples(self, approximate, arguments, words):
        with pytest.raises(InvalidInput, match=words):
            approximate.sample(**({"seed": 0} | arguments))

    def test_wrong_counts(self, approximate):
        with pytest.raises(InvalidInput, match="samples"):
            approximate.log_prob(np.zeros((1, 4)), samples=0)
        with pytest.raises(InvalidInput, match="draws"):
            approximate.predict(np.zeros((1, 4)), np.ones((1, 4), dtype=bool), draws=0)

    def test_scoring_inputs_needs_values_in_the_hidden_cells(self, approximate):
        with pytest.raises(InvalidInput, match=r"inputs\[0\].c1"):
            approximate.predict(
                np.array([[0.0, np.nan, 0, 0]]), np.array([[False, True, False, False]]), score_inputs=True
            )

    def test_a_hidden_cell_that_the_graphs_cannot_take(self, exact, exact_gaussian, build):
        bare = program(build("linear_gaussian", "real", "real", exact=True).model())
        bare._gaussian = None
        with pytest.raises(VerbUnsupported, match="hidden"):
            bare.log_prob(np.zeros((1, 2)), hidden=np.array([[True, False]]))
