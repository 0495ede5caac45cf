"""Fingerprints: rows trained on are recognised, all of them or a fair share."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from sklearn_hfl.calibration.fingerprints import MAX_HASHES, Fingerprints

ROWS = np.random.default_rng(0).standard_normal((40, 3))


def test_shared_rows_are_counted():
    rows = np.vstack([ROWS[[3, 3, 7]], ROWS[:5] + 0.01])
    assert Fingerprints.of_rows([ROWS[:9], ROWS[9:]]).count(rows) == 3
    assert Fingerprints.of_rows([rows]).count(ROWS) == 2
    assert Fingerprints.of_rows([ROWS]).count(rows[3:]) == 0


def test_shared_rows_agree_in_every_column():
    known = Fingerprints.of_rows([np.array([[1.0, 1.0], [2.0, 2.0]])])
    assert known.count(np.array([[1.0, 2.0], [2.0, 1.0]])) == 0


def test_rounding_hides_no_shared_row():
    rows = np.random.default_rng(0).standard_normal((500, 4))
    rows[0] = 0.0
    assert Fingerprints.of_rows([rows]).count(rows * (1 + 1e-15) - 1e-300) == 500


@pytest.mark.parametrize("shared", [0.0, 0.1, 1.0])
def test_many_rows_are_estimated_from_those_kept(shared):
    rows = np.random.default_rng(1).standard_normal((40_000, 2))
    known = Fingerprints.of_rows(np.array_split(rows, 7))
    assert len(known.hashes) == MAX_HASHES
    assert not known.complete
    asked = np.random.default_rng(2).standard_normal((10_000, 2))
    n = int(shared * len(asked))
    asked[:n] = rows[:n]
    # A tenth of the rows can be told, so that the estimate has a relative error of some percent.
    assert known.count(asked) == pytest.approx(n, rel=0.25)
    assert known.count(rows) == pytest.approx(len(rows), rel=1e-12)


def test_the_order_of_rows_does_not_matter():
    rows = np.random.default_rng(1).standard_normal((9000, 2))
    first, second = Fingerprints.of_rows([rows]), Fingerprints.of_rows([rows[::-1]])
    assert first.hashes.tolist() == second.hashes.tolist()


def test_another_process_recognises_them(tmp_path):
    (tmp_path / "known.pickle").write_bytes(pickle.dumps(Fingerprints.of_rows([ROWS])))
    script = (
        "import pickle, sys, numpy as np\n"
        "known = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(known.count(np.random.default_rng(0).standard_normal((40, 3))))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "known.pickle"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "40"
