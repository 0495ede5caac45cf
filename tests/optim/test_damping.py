import pytest

from sklearn_hfl.optim.damping import MIN_DAMPING, MIN_FACTOR, Damping


@pytest.mark.parametrize(
    ("gain_ratio", "factor"), [(1.0, MIN_FACTOR), (3.0, MIN_FACTOR), (0.5, 1.0), (0.0, 2.0)]
)
def test_damping_follows_the_gain_ratio(gain_ratio, factor):
    assert Damping(8.0).lowered(gain_ratio).value == pytest.approx(8.0 * factor)


def test_rejected_steps_raise_the_damping_faster_and_faster():
    damping, values = Damping(1.0), []
    for _ in range(4):
        damping = damping.raised()
        values.append(damping.value)
    assert values == [2.0, 8.0, 64.0, 1024.0]
    assert damping.kept() == Damping(1024.0, growth=2.0)


def test_accepted_steps_lower_the_damping_to_its_minimum():
    damping = Damping()
    for _ in range(50):
        damping = damping.lowered(1.0)
    assert damping.value == MIN_DAMPING
