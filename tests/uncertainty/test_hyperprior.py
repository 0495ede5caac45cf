import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.uncertainty.precisions import FEATURE_STRENGTH, STRENGTH, Hyperprior
from tests.cases import F64, problem, randn

GAMMA, SQUARES = torch.tensor([3.0, 0.5], dtype=F64), torch.tensor([2.0, 4.0], dtype=F64)


def hyperprior(strength, centre=(1.0, 2.0)):
    return Hyperprior(torch.full((2,), strength, dtype=F64), torch.tensor(centre, dtype=F64))


def test_without_strength_the_update_is_mackays():
    assert_close(hyperprior(0.0).update(GAMMA, SQUARES), GAMMA / SQUARES)


@pytest.mark.parametrize("strength", [0.005, 1.0])
def test_groups_without_evidence_stay_at_the_centre(strength):
    found = hyperprior(strength)
    assert_close(found.update(torch.zeros(2), torch.zeros(2)), found.centre)


def test_the_update_is_the_mode():
    """Of ½ γ log α − ½ α Σθ², MacKay's view of the evidence, and the hyperprior."""
    found = hyperprior(0.7)
    best = found.update(GAMMA, SQUARES)

    def density(alpha):
        evidence = 0.5 * (GAMMA * alpha.log() - alpha * SQUARES).sum()
        return float(evidence) + found.log_density(alpha)

    assert all(density(best) > density(factor * best) for factor in (0.9, 1.1))


def test_features_share_a_centre_and_other_groups_have_theirs_at_one():
    lp = problem("one layer").log_posterior
    n = lp.n_weights
    weights, gamma = randn(n), torch.rand(n, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = Hyperprior.at(lp, weights, gamma)
    features = lp.prior.groups.of_kind("feature")
    assert 0 < features.sum() < len(features)
    of_features = features[lp.prior.groups.labels]
    shared = gamma[of_features].sum() / weights[of_features].square().sum()
    assert_close(found.centre[features], shared.expand(int(features.sum())), rtol=0.05, atol=0)
    assert (found.strength[features] == FEATURE_STRENGTH).all()
    assert (found.centre[~features] == 1).all()
    assert (found.strength[~features] == STRENGTH).all()
