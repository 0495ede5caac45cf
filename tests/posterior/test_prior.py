import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior, WeightGroups
from tests.cases import F64, randn

LABELS = torch.tensor([2, 0, 0, 1, 2, 0])
KINDS = ("feature", "weights", "biases")
GROUPS = WeightGroups(LABELS, ("a", "b", "c"), KINDS, (False, False, True))
PRIOR = GaussianPrior(torch.tensor([0.5, 2.0, 3.0], dtype=F64), GROUPS)


def test_precision_follows_the_labels():
    assert PRIOR.precision.tolist() == [3, 0.5, 0.5, 2, 3, 0.5]
    assert_close(PRIOR.scale, PRIOR.precision**-0.5)


def test_energy_is_the_negative_log_density_less_its_constant():
    weights = randn(4, 6)
    log_density = Normal(0.0, PRIOR.scale).log_prob
    expected = (log_density(torch.zeros(6, dtype=F64)) - log_density(weights)).sum(-1)
    assert_close(PRIOR.energy(weights), expected)


def test_group_sum_equals_a_loop():
    values = randn(6)
    expected = torch.stack([values[g == LABELS].sum() for g in range(3)])
    assert_close(PRIOR.group_sum(values), expected)


def test_with_precision_keeps_the_groups():
    other = PRIOR.with_precision(torch.ones(3, dtype=F64))
    assert other.groups is PRIOR.groups
    assert_close(other.precision, torch.ones(6, dtype=F64))
    assert PRIOR.group_precision.tolist() == [0.5, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_marks_the_groups_of_a_kind(kind):
    assert GROUPS.of_kind(kind).tolist() == [kind == other for other in KINDS]


def test_features_have_their_own_names_if_these_are_unique():
    groups = MLP((2, 3, 1)).weight_groups()
    named = groups.named(["age", "layer 0 biases"])
    assert named[:2] == ("layer 0 feature age", "layer 0 feature layer 0 biases")
    assert named[2:] == groups.names[2:]
    assert groups.named(["age", "age"]) == groups.names
