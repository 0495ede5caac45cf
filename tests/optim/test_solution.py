import pytest
import torch

from sklearn_hfl.optim.solution import Solution, Status


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_reason_of_its_own(status):
    others = [other.reason for other in Status if other is not status]
    assert status.reason
    assert status.reason not in others


def test_converged_goes_by_status():
    none = torch.zeros(len(Status))
    solution = Solution(none[:, None], none, none, torch.tensor(list(Status)))
    assert solution.converged.tolist() == [status is Status.CONVERGED for status in Status]
