import numpy as np
import onnx
import pytest
from onnx import helper
from scipy.stats import multivariate_normal

from contracts.artifact import AnswerKind, GraphSpec, Verb, VerbSpec
from contracts.data import Measure
from contracts.errors import Conflict, InvalidInput, VerbUnsupported
from engine.kinds import program
from engine.kinds.bijective import BijectiveProgram

HIDDEN = np.array([False, True, False, True])


@pytest.fixture(scope="module")
def model(affine):
    return program(affine.model())


def rows(oracle, count, seed=0):
    return np.random.default_rng(seed).multivariate_normal(oracle.mean, oracle.covariance, size=count)


def test_encode_and_decode_are_inverse(model, affine):
    x = rows(affine, 7)
    encoding = model.encode(x)
    assert encoding.log_scale is None
    np.testing.assert_allclose(model.decode(encoding.vectors), x, atol=1e-9)


def test_discrete_rows_come_back_whole(build):
    model = program(build("affine", "integer", "real", "boolean", centre=5.0).model())
    x = np.array([[3.0, 0.25, 1.0], [0.0, -7.5, 0.0], [15.0, 2.0, 1.0]])
    np.testing.assert_allclose(model.decode(model.encode(x).vectors), x, atol=1e-9)


def test_log_prob_is_exact_on_real_cells(model, affine):
    x = rows(affine, 6)
    answer = model.log_prob(x)
    truth = multivariate_normal(affine.mean, affine.covariance).logpdf(x)
    np.testing.assert_allclose(answer.values, truth, rtol=1e-9)
    assert (answer.kind, answer.measure, answer.samples) == (AnswerKind.EXACT, Measure.DENSITY, None)


def test_log_prob_of_discrete_cells_is_the_mass_of_their_bins(build):
    oracle = build("affine", "integer", "integer", centre=7.0)
    x = np.array([[7.0, 7.0], [6.0, 9.0]])
    answer = program(oracle.model()).log_prob(x, samples=4000)
    gaussian = multivariate_normal(oracle.mean, oracle.covariance)
    truth = np.log([gaussian.cdf(row + 1, lower_limit=row) for row in x])
    assert answer.kind is AnswerKind.LOWER_BOUND
    assert answer.measure is Measure.PROBABILITY
    assert answer.samples == 4000
    assert (np.abs(answer.values - truth) < 5 * answer.standard_error + 1e-4).all()


def test_samples_have_the_models_moments_and_depend_on_their_index_alone(model, affine):
    x = model.sample(20_000, seed=0)
    np.testing.assert_allclose(np.cov(x.T), affine.covariance, rtol=0.1, atol=0.2)
    np.testing.assert_allclose(model.sample(3, seed=0, first=11), x[11:14], rtol=1e-12)
    np.testing.assert_allclose(model.sample(5, seed=0, temperature=0.0), np.tile(affine.mean, (5, 1)), atol=1e-12)


def test_hidden_cells_are_integrated_out(model, affine):
    x = rows(affine, 4)
    hidden = np.tile(HIDDEN, (4, 1))
    shown = np.flatnonzero(~HIDDEN)
    truth = multivariate_normal(affine.mean[shown], affine.covariance[np.ix_(shown, shown)]).logpdf(x[:, shown])
    answer = model.log_prob(x, hidden=hidden, samples=4000)
    assert answer.kind is AnswerKind.ESTIMATE
    assert (np.abs(answer.values - truth) < 5 * answer.standard_error + 1e-9).all()


def test_predict_reaches_the_exact_conditional(model, affine):
    x = rows(affine, 3)
    hidden = np.tile(HIDDEN, (3, 1))
    h, s = np.flatnonzero(HIDDEN), np.flatnonzero(~HIDDEN)
    gain = affine.covariance[np.ix_(h, s)] @ np.linalg.inv(affine.covariance[np.ix_(s, s)])
    mean = affine.mean[h] + (x[:, s] - affine.mean[s]) @ gain.T
    covariance = affine.covariance[np.ix_(h, h)] - gain @ affine.covariance[np.ix_(s, h)]
    deviation = np.sqrt(np.diag(covariance))
    answer = model.predict(np.where(hidden, np.nan, x), hidden, samples=4000, draws=500)
    assert (np.abs(answer.mean[:, h] - mean) < 0.1 * deviation).all()
    np.testing.assert_allclose(answer.std[:, h], np.tile(deviation, (3, 1)), rtol=0.1)
    assert (np.abs(answer.draws[..., h].mean(axis=1) - mean) < 0.25 * deviation).all()
    assert ((answer.effective_sample_size > 2000) & (answer.effective_sample_size < 4000)).all()
    scored = model.predict(x, hidden, samples=4000, score_inputs=True)
    truth = [multivariate_normal(m, covariance).logpdf(row) for m, row in zip(mean, x[:, h], strict=True)]
    assert (np.abs(scored.log_prob - truth) < 5 * scored.standard_error).all()


def test_predicted_discrete_cells_stay_on_the_grid(build):
    oracle = build("affine", "integer", "categorical", "real", centre=1.0)
    x = np.array([[4.0, 1.0, 0.3]] * 2)
    hidden = np.array([[True, True, False], [False, True, True]])
    answer = program(oracle.model()).predict(x, hidden, draws=30)
    drawn = answer.draws[..., :2]
    assert (drawn == np.floor(drawn)).all()
    assert drawn.min() >= 0
    assert drawn[..., 1].max() <= 2
    assert set(answer.mean[:, 1]) <= {0.0, 1.0, 2.0}
    assert (answer.draws[1, :, 0] == 4).all()
    assert np.isfinite(answer.log_prob).all()


def test_a_rows_answer_does_not_depend_on_its_batch(model, affine):
    x = rows(affine, 8)
    hidden = np.random.default_rng(0).random(x.shape) < 0.4
    together = model.predict(x, hidden, draws=2)
    tight = program(affine.model(element_budget=50))
    for order in ([3], [7, 0, 3]):
        apart, narrow = (m.predict(x[order], hidden[order], draws=2) for m in (model, tight))
        for other in (apart, narrow):
            np.testing.assert_allclose(other.mean, together.mean[order], rtol=1e-9)
            np.testing.assert_allclose(other.draws, together.draws[order], rtol=1e-9)
            np.testing.assert_allclose(other.log_prob, together.log_prob[order], rtol=1e-7, atol=1e-9)


def test_hidden_cells_need_a_proposal(build):
    model = program(build("affine", "real", "real", proposal=False).model())
    hidden = np.array([[True, False]])
    for ask in (model.log_prob, model.predict):
        with pytest.raises(VerbUnsupported):
            ask(np.zeros((1, 2)), hidden=hidden)


def test_labels_move_the_rows(build):
    oracle = build("affine", "real", "real", labels=3)
    model = program(oracle.model())
    x = rows(oracle, 4)
    y = np.array([0, 2, 1, 2])
    moved = x + 10.0 * y[:, None]
    truth = multivariate_normal(oracle.mean, oracle.covariance).logpdf(x)
    np.testing.assert_allclose(model.log_prob(moved, given=y).values, truth, rtol=1e-9)
    z = model.encode(moved, given=y).vectors
    np.testing.assert_allclose(model.decode(z, given=y), moved, atol=1e-9)
    drawn = model.sample(4000, seed=0, given=np.array(2))
    assert (np.abs(drawn.mean(axis=0) - oracle.mean - 20) < 0.3).all()
    hidden = np.tile([True, False], (4, 1))
    answer = model.predict(moved, hidden, given=y, samples=2000)
    assert (answer.effective_sample_size > 1).all()
    np.testing.assert_array_equal(answer.mean[:, 1], moved[:, 1])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "conditional; say `given"),
        (np.array([0, 3, 0, 0]), r"0\.\.2"),
        (np.array([-1]), r"0\.\.2"),
        (np.array([0.5]), "label code"),
        (np.array([0, 1]), "each of the 4 rows"),
    ],
)
def test_wrong_labels_are_refused(build, given, words):
    model = program(build("affine", "real", "real", labels=3).model())
    with pytest.raises(InvalidInput, match=words):
        model.log_prob(np.zeros((4, 2)), given=given)


def test_a_refused_verb_says_what_to_use(affine):
    model = affine.model()
    verbs = model.manifest.verbs | {
        Verb.LOG_PROB: VerbSpec(supported=False, refusal="this gives up density: train a flow"),
    }
    model.manifest = model.manifest.model_copy(update={"verbs": verbs})
    refusing = program(model)
    with pytest.raises(VerbUnsupported, match="train a flow"):
        refusing.log_prob(np.zeros((1, 4)))
    model.manifest = model.manifest.model_copy(update={"verbs": {}})
    with pytest.raises(VerbUnsupported, match="test does not answer sample"):
        program(model).sample(1, seed=0)


def test_a_kind_of_another_engine_is_a_conflict(affine):
    model = affine.model()
    model.manifest = model.manifest.model_copy(update={"kind": "relational"})
    with pytest.raises(Conflict, match="relational"):
        program(model)


def test_discrete_draws_outside_the_data_carry_no_weight(build):
    """A proposal that reaches beyond a boolean's two values must not add their mass."""
    oracle = build("affine", "boolean", "real")
    model = program(oracle.model())
    assert isinstance(model, BijectiveProgram)
    hidden = np.array([[True, False]])
    x = np.array([[0.0, oracle.mean[1]]])
    answer = model.log_prob(x, hidden=hidden, samples=8000)
    gaussian = multivariate_normal(oracle.mean, oracle.covariance)
    grid = np.linspace(0, 2, 2001)
    density = gaussian.pdf(np.stack((grid, np.full_like(grid, x[0, 1])), axis=1))
    truth = np.log(np.trapezoid(density, grid))
    assert abs(answer.values[0] - truth) < 5 * answer.standard_error[0] + 1e-3


def test_encoding_needs_complete_rows(model):
    hidden = np.array([[True, False, False, False]])
    with pytest.raises(VerbUnsupported, match="complete rows"):
        model.encode(np.zeros((1, 4)), hidden=hidden)


def test_rows_outside_every_density_have_no_conditional(model, affine):
    """Where p(shown) underflows to zero, log p(hidden | shown) is -inf and never NaN or +inf."""
    x = np.full((1, 4), 1e200)
    answer = model.predict(x, np.array([HIDDEN]), samples=20, score_inputs=True)
    assert answer.log_prob[0] == -np.inf
    assert np.isfinite(answer.effective_sample_size).all()


def test_a_proposal_that_is_far_off_is_tempered(affine, monkeypatch):
    """A proposal with its mean elsewhere gives few draws any weight, however they are picked."""
    model = program(affine.model())
    proposal = model._proposal
    monkeypatch.setattr(model, "_proposal", type(proposal)(np.zeros(1), proposal.means + 8, 1.2 * proposal.cholesky))
    x = rows(affine, 40)
    hidden = np.tile(HIDDEN, (40, 1))
    h, s = np.flatnonzero(HIDDEN), np.flatnonzero(~HIDDEN)
    gain = affine.covariance[np.ix_(h, s)] @ np.linalg.inv(affine.covariance[np.ix_(s, s)])
    mean = affine.mean[h] + (x[:, s] - affine.mean[s]) @ gain.T
    errors = {}
    for temperatures in (1, 20):
        monkeypatch.setattr(model, "temperatures", temperatures)
        answer = model.predict(x, hidden, samples=100)
        errors[temperatures] = np.sqrt(((answer.mean[:, h] - mean) ** 2).mean())
    assert errors[20] < 0.7 * errors[1], errors


def test_a_forward_graph_with_noise_of_its_own_leaves_conditionals_to_the_density(build):
    oracle = build("affine", "integer", "real", centre=5.0)
    x, hidden = np.array([[4.0, 5.5]]), np.array([[False, True]])
    plain = program(oracle.model()).predict(x, hidden, draws=3)
    proto = onnx.load(oracle.folder / "forward.onnx")
    forward = oracle.manifest.graphs["forward"]
    del proto.graph.output[0]
    (oracle.folder / "density.onnx").write_bytes(proto.SerializeToString())
    learned = onnx.load(oracle.folder / "forward.onnx")
    (noise,) = [value for value in learned.graph.input if value.name == "u"]
    noise.name = "eps"
    learned.graph.node.insert(0, helper.make_node("Sigmoid", ["eps"], ["u"]))
    (oracle.folder / "learned.onnx").write_bytes(learned.SerializeToString())
    eps = forward.inputs[1].model_copy(update={"name": "eps", "noise": "normal"})
    graphs = oracle.manifest.graphs | {
        "density": GraphSpec(file="density.onnx", inputs=forward.inputs, outputs=forward.outputs[1:]),
        "forward": GraphSpec(file="learned.onnx", inputs=(forward.inputs[0], eps), outputs=forward.outputs),
    }
    model = oracle.model()
    model.manifest = model.manifest.model_copy(update={"graphs": graphs})
    answers = program(model)
    np.testing.assert_allclose(answers.predict(x, hidden, draws=3).draws, plain.draws)
    np.testing.assert_allclose(answers.decode(answers.encode(x).vectors), x, atol=1e-9)
    assert answers.log_prob(x, samples=50).samples == 50
