from dataclasses import replace

import pytest
import torch

from sklearn_hfl.optim.newton_cg import NewtonCG
from sklearn_hfl.optim.solution import Status
from sklearn_hfl.optim.training import no_callback
from sklearn_hfl.posterior.initialization import initial_weights
from sklearn_hfl.posterior.likelihood import (
    CategoricalLikelihood,
    GaussianLikelihood,
    HeteroscedasticLikelihood,
)
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty import search
from sklearn_hfl.uncertainty.alternation import Alternation, Fit, _Rounds
from sklearn_hfl.uncertainty.evidence import log_multiplicity
from sklearn_hfl.uncertainty.exact import dense_ggn
from sklearn_hfl.uncertainty.precisions import EvidenceOptions
from sklearn_hfl.uncertainty.search import _is_better, maximize_evidence
from tests import reference
from tests.cases import F64, generator, randn

TRAINER = NewtonCG(1000, tol=0.01, n_iter_no_change=10)
X = randn(80, 6)
LATENT = X @ randn(6, 3, seed=1)
NOISY = LATENT + 3 * randn(80, 3, seed=2)
CURVED = X[:, :1].square() - 0.5
UNIT = torch.ones(1, dtype=F64)


def one_hot(latent):
    return torch.nn.functional.one_hot(latent.argmax(1), latent.shape[1]).to(F64)


# What is learned from noisy rows of a linear truth: likelihood, targets, outputs, log noises.
LINEAR = {
    "gaussian": (GaussianLikelihood(UNIT), NOISY[:, :1] / NOISY[:, :1].std(), 1, 0),
    "log noise": (HeteroscedasticLikelihood(UNIT), NOISY[:, :1] / NOISY[:, :1].std(), 2, 1),
    "two classes": (CategoricalLikelihood(), (NOISY[:, :1] > 0).to(F64), 1, 0),
    "three classes": (CategoricalLikelihood(), one_hot(NOISY), 3, 0),
}


def log_posterior(likelihood, y, network):
    groups = network.weight_groups()
    prior = GaussianPrior(torch.ones(len(groups), dtype=F64), groups)
    return LogPosterior(network, likelihood, prior, X, y, torch.ones(len(X), dtype=F64))


def maximize(likelihood, y, hidden, n_outputs, n_noise=0, seed=0):
    network = MLP((X.shape[1], *hidden, n_outputs), n_noise=n_noise)
    noise = not isinstance(likelihood, CategoricalLikelihood)
    starts = ((10.0, 1.0), (1.0, 0.3)) if noise else ((0.1, 1.0), (10.0, 1.0))
    options = EvidenceOptions(True, noise, 0.0 if noise else 0.01, starts)
    lp, start = log_posterior(likelihood, y, network), initial_weights(network, generator(seed))
    fit, *_ = maximize_evidence(lp, start, TRAINER, options, generator(seed))
    found, weights = replace(fit.log_posterior, variance_of_mean=None), fit.weights
    matrix = dense_ggn(found, weights)
    multiplicity = log_multiplicity(found.network, reference.effective_parameters(found, matrix))
    return found, reference.log_evidence(found, weights, matrix) + multiplicity


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", LINEAR)
def test_a_network_is_not_less_probable_than_its_linear_model(name, seed):
    likelihood, y, *outputs = LINEAR[name]
    _, linear = maximize(likelihood, y, (), *outputs)
    _, network = maximize(likelihood, y, (15,), *outputs, seed=seed)
    assert network > linear - 0.1


@pytest.mark.parametrize("name", ["gaussian", "two classes"])
def test_noise_alone_leaves_the_linear_model(name):
    likelihood, y, *outputs = LINEAR[name]
    shuffled = y[torch.randperm(len(y), generator=generator(3))]
    found, _ = maximize(likelihood, shuffled, (15,), *outputs)
    assert found.network.layer_sizes == (6, 1)


@pytest.mark.parametrize(
    ("likelihood", "y"),
    [(GaussianLikelihood(UNIT), CURVED / CURVED.std()), (CategoricalLikelihood(), CURVED > 0)],
    ids=["gaussian", "two classes"],
)
def test_what_is_not_linear_keeps_its_network(likelihood, y):
    _, linear = maximize(likelihood, y.to(F64), (), 1)
    found, network = maximize(likelihood, y.to(F64), (15,), 1)
    assert found.network.layer_sizes == (6, 15, 1)
    assert network > linear + 5


@pytest.mark.parametrize(("seed", "better"), [(9, "strong"), (11, "wide")])
def test_a_linear_model_of_classes_has_the_better_of_two_starts(seed, better):
    X, noise = randn(60, 30, seed=seed), randn(60, 4, seed=seed + 100)
    y = one_hot(0.7 * X @ randn(30, 4, seed=seed + 50) + 4 * noise)
    lp = replace(log_posterior(CategoricalLikelihood(), y, MLP((30, 4))), X=X)
    lp = replace(lp, sample_weight=torch.ones(60, dtype=F64))
    zeros = torch.zeros(lp.n_weights, dtype=F64)

    def evidence(*starts):
        options = EvidenceOptions(True, False, 0.01, linear_starts=starts)
        return maximize_evidence(lp, zeros, TRAINER, options, generator(0))[0].log_evidence

    strong, wide = (10.0, 1.0), (0.03, 1.0)
    alone = {"strong": evidence(strong), "wide": evidence(wide)}
    assert max(alone, key=alone.get) == better
    assert max(alone.values()) > min(alone.values()) + 0.1
    assert evidence(strong, wide) == pytest.approx(alone[better], abs=0.01)


def test_rounds_that_fall_behind_end():
    likelihood, y, *_ = LINEAR["gaussian"]
    lp = log_posterior(likelihood, y, MLP((6, 15, 1)))
    start = Fit(lp, initial_weights(lp.network, generator(0)))

    def spent(known):
        options = EvidenceOptions(True, True, rtol=0.0)
        alternation = Alternation(TRAINER, options, generator(0), no_callback)
        fit = alternation.rounds(start, 6, known)
        assert fit.ended or known == -torch.inf
        return len(alternation.losses)

    assert spent(1e6) < spent(-torch.inf)


@pytest.mark.parametrize(
    ("gains", "prior", "ended"),
    [
        ([10, 5, 0.03, 0.02, 0.02], True, True),  # by 0.07 nats in three rounds, of 80 rows
        ([10, 5, 0.03, 0.03, 0.03], True, False),  # by 0.09
        ([10, 5, 0.03, 0], True, False),  # two rounds
        ([10, 5, 0.03, 0, -1], True, False),  # worse, which ends rounds by a rule of its own
        ([10, 5, 0.03, 0, 0, 0], False, False),  # where noise alone is learned
    ],
)
def test_rounds_that_level_off_end(gains, prior, ended):
    likelihood, y, *_ = LINEAR["gaussian"]
    lp = log_posterior(likelihood, y, MLP((6, 15, 1)))
    start = Fit(lp, initial_weights(lp.network, generator(0)))
    rounds = _Rounds(start, EvidenceOptions(prior, True, rtol=0.0), -torch.inf)
    score = -100.0
    for gain in gains:
        assert not rounds.ended
        score += gain
        rounds.add(replace(start, score=score, log_evidence=score), change=1.0)
    assert rounds.ended is ended
    assert not rounds.converged


def test_rounds_on_many_rows_begin_on_a_sample(monkeypatch):
    """Precisions are then nearly those of a search on all rows."""
    _, y, *_ = LINEAR["gaussian"]
    lp = log_posterior(GaussianLikelihood(UNIT), y + CURVED, MLP((6, 4, 1)))
    many = lp.select(torch.arange(len(lp.X)).repeat(3))
    many = replace(many, y=many.y + 0.3 * randn(*many.y.shape))
    found, phases = {}, []

    def callback(**facts):
        phases.append(facts.get("phase"))

    for rows in (10**6, len(many.X) // 2):
        monkeypatch.setattr(search, "MIN_SAMPLE_RESIDUALS", rows)
        monkeypatch.setattr(search, "SAMPLE_RESIDUALS_PER_WEIGHT", 1)
        phases.clear()
        fit, _, finished = maximize_evidence(
            many, initial_weights(many.network, generator(2)), TRAINER,
            EvidenceOptions(True, True), generator(0), callback,
        )  # fmt: skip
        assert finished
        assert len(fit.log_posterior.X) == len(many.X)
        found[rows] = fit
        on_sample = f"search on {rows} rows" in phases
        assert on_sample == (rows < len(many.X))
    on_all, on_some = found.values()
    assert on_some.log_evidence == pytest.approx(on_all.log_evidence, rel=0.02)
    ratio = (
        on_some.log_posterior.likelihood.noise_precision
        / on_all.log_posterior.likelihood.noise_precision
    )
    assert ratio.log().abs() < 0.1


@pytest.mark.parametrize("n_rare", [40, 4])
def test_a_search_begins_on_a_sample_only_if_that_has_enough_of_each_class(monkeypatch, n_rare):
    likelihood, y, *_ = LINEAR["two classes"]
    lp = log_posterior(likelihood, y, MLP((6, 3, 1)))
    lp = lp.select(torch.arange(80) % len(lp.X))
    lp = replace(lp, y=(torch.arange(80) < n_rare).to(lp.y)[:, None])
    monkeypatch.setattr(search, "MIN_SAMPLE_RESIDUALS", 20)
    monkeypatch.setattr(search, "SAMPLE_RESIDUALS_PER_WEIGHT", 0)
    phases = []

    def callback(**facts):
        phases.append(facts.get("phase"))

    options = EvidenceOptions(True, False)
    start = initial_weights(lp.network, generator(2))
    maximize_evidence(lp, start, TRAINER, options, generator(0), callback)
    assert ("search on 20 rows" in phases) == (n_rare == 40)
    assert "search on 80 rows" in phases


def test_precisions_of_very_many_rows_are_those_of_a_sample(monkeypatch):
    """All rows are for the MAP alone, but those of the nearly constant model."""
    _, y, *_ = LINEAR["gaussian"]
    lp = log_posterior(GaussianLikelihood(UNIT), y + CURVED, MLP((6, 4, 1)))
    many = lp.select(torch.arange(len(lp.X)).repeat(8))
    many = replace(many, y=many.y + 0.3 * randn(*many.y.shape))
    n = len(many.X)
    phases = []

    def callback(**facts):
        phases.append(facts.get("phase"))

    def found():
        return maximize_evidence(
            many, initial_weights(many.network, generator(2)), TRAINER,
            EvidenceOptions(True, True), generator(0), callback,
        )[0]  # fmt: skip

    on_all = found()
    assert phases.count(f"search on {n} rows") > 1
    for constant, value in (
        ("MIN_SAMPLE_RESIDUALS", n // 8),
        ("SAMPLE_RESIDUALS_PER_WEIGHT", 1),
        ("SAMPLE_GROWTH", 4),
    ):
        monkeypatch.setattr(search, constant, value)
    phases.clear()
    on_some = found()
    assert {f"search on {n // 8} rows", f"search on {n // 2} rows"} <= {*phases}
    assert phases.count(f"search on {n} rows") == 1
    assert len(on_some.log_posterior.X) == n
    assert on_some.status == Status.CONVERGED
    assert on_some.log_evidence > on_all.log_evidence - 0.02 * abs(on_all.log_evidence)


def test_a_fit_knows_its_evidence_at_the_map():
    likelihood, y, *_ = LINEAR["three classes"]
    lp = log_posterior(likelihood, y, MLP((6, 5, 3)))
    options = EvidenceOptions(True, False)
    alternation = Alternation(TRAINER, options, generator(0), no_callback)
    fit = alternation.at_map(alternation.rounds(Fit(lp, 0.3 * randn(lp.n_weights)), 2))
    matrix = dense_ggn(fit.log_posterior, fit.weights)
    expected = reference.log_evidence(fit.log_posterior, fit.weights, matrix)
    gamma = reference.effective_parameters(fit.log_posterior, matrix)
    expected += log_multiplicity(fit.log_posterior.network, gamma)
    assert fit.log_evidence == pytest.approx(expected, abs=0.1)
    assert fit.trained[1] == len(alternation.losses)


def test_a_richer_model_has_to_predict_rows_left_out_better():
    likelihood, y, *_ = LINEAR["gaussian"]
    lp = log_posterior(likelihood, y, MLP((6, 1)))
    options = EvidenceOptions(True, True)
    alternation = Alternation(TRAINER, options, generator(0), no_callback)
    simple = alternation.at_map(Fit(lp, torch.zeros(lp.n_weights, dtype=F64)))
    network = replace(simple, log_posterior=replace(lp, network=MLP((6, 2, 1))))

    def better(richer, per_row, evidence_gain):
        left_out = simple.rows.left_out + torch.as_tensor(per_row, dtype=F64)
        richer.__dict__["rows"] = replace(simple.rows, left_out=left_out)
        return _is_better(richer, simple, evidence_gain)

    linear, n = replace(simple), len(y)
    assert not better(linear, 0.0, evidence_gain=5.0)
    assert better(linear, 0.1, evidence_gain=0.1)
    assert not better(linear, 0.5 / n, evidence_gain=5.0)  # less than a nat in all
    assert not better(network, 0.5 / n, evidence_gain=1.4)
    assert better(network, 0.5 / n, evidence_gain=1.6)  # two nats in all
    assert not better(network, -0.5 / n, evidence_gain=2.4)
    scattered = torch.where(torch.arange(n) < n // 2, 1.0, -0.98)  # 0.01 a row, within its error
    assert not better(network, scattered, evidence_gain=2.0)
    assert better(network, scattered, evidence_gain=100.0)


@pytest.mark.parametrize("varies", [False, True])
def test_noise_varies_only_where_the_rows_say_so(varies):
    x = randn(200, 1)
    std = torch.exp(0.8 * x) if varies else torch.ones_like(x)
    y = x + std * randn(200, 1, seed=1)
    network = MLP((1, 2), n_noise=1)
    lp = replace(log_posterior(HeteroscedasticLikelihood(UNIT), y / y.std(), network), X=x)
    lp = replace(lp, sample_weight=torch.ones(200, dtype=F64))
    start = torch.zeros(network.n_weights, dtype=F64)
    options = EvidenceOptions(True, True)
    fit, *_ = maximize_evidence(lp, start, TRAINER, options, generator(0))
    assert fit.log_posterior.likelihood.constant is not varies


def test_a_map_with_too_little_evidence_gives_way_to_earlier_rounds():
    """Of rounds before, the one whose MAP has the most evidence is taken."""
    y = (LATENT[:, :1] + CURVED + 0.1 * randn(80, 1, seed=8)) / 2
    lp = log_posterior(GaussianLikelihood(UNIT), y, MLP((6, 15, 1)))
    start = initial_weights(lp.network, generator(2))
    options = EvidenceOptions(True, True)

    def alternation():
        return Alternation(TRAINER, options, generator(0), no_callback)

    fit = alternation().rounds(Fit(lp, start), 8)
    rounds = [fit.path[number] for number in (0, 1, 4, 3, 2)]
    first, *others = (alternation().at_map(replace(r, path=())).log_evidence for r in rounds)
    climbed = first
    for evidence in others:
        if evidence < climbed:
            break
        climbed = evidence
    # Every round claims more evidence than any MAP has: the MAPs alone decide where to stop.
    certain = tuple(replace(r, log_evidence=1e9) for r in reversed(rounds[1:]))
    lost = replace(rounds[0], log_evidence=3e9, path=certain)
    back = alternation().at_map(lost, known=-1e9)
    assert back.log_evidence == pytest.approx(climbed, abs=0.5)
    assert first < climbed > others[-1]


def test_a_worse_map_does_not_hide_a_better_one_before(monkeypatch):
    likelihood, y, *_ = LINEAR["gaussian"]
    lp = log_posterior(likelihood, y, MLP((6, 1)))
    start = Fit(lp, torch.zeros(lp.n_weights, dtype=F64))
    # Evidence of rounds, and of their MAPs; the first promises less than is found after it.
    of_map = {20.0: 19.0, 40.0: 30.0, 60.0: -5.0, 80.0: 5.0, 100.0: 1.0}
    monkeypatch.setattr(Alternation, "_with_noise_of_map", lambda self, fit: fit)
    monkeypatch.setattr(
        Alternation,
        "to_map",
        lambda self, fit: replace(fit, log_evidence=of_map.pop(fit.log_evidence)),
    )
    *path, best = (replace(start, log_evidence=evidence) for evidence in sorted(of_map))
    alternation = Alternation(TRAINER, EvidenceOptions(True, True), generator(0), no_callback)
    found = alternation.at_map(replace(best, path=tuple(path)), known=0.0)
    assert found.log_evidence == 30.0
    assert list(of_map) == [20.0]
