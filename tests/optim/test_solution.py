import pytest
import torch

from sklearn_hfl.optim.solution import Solution, Status, Trajectory, no_callback


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_reason_of_its_own(status):
    others = [other.reason for other in Status if other is not status]
    assert status.reason
    assert status.reason not in others


def test_converged_goes_by_status():
    none = torch.zeros(4)
    solution = Solution(none[:, None], none, none, none, torch.tensor(list(Status)))
    assert solution.converged.tolist() == [True, False, False, False]


def test_a_trajectory_counts_its_steps():
    assert Trajectory(torch.zeros(1), (3.0, 2.0, 1.5)).n_iter == 2


def test_the_default_callback_does_nothing():
    assert no_callback(1.0) is None
