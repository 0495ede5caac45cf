"""Old files: what each release wrote still loads and answers alike, or says why not."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import skops.io
from numpy.testing import assert_allclose

from sklearn_hfl import HFLRegressor
from sklearn_hfl._data import storage

FILES = Path(__file__).parent / "files"
REFUSED = ["0.1.0.dev0"]
RELEASES = sorted({folder.name for folder in FILES.iterdir()} - {*REFUSED})


def load(path):
    if path.suffix == ".pickle":
        return pickle.loads(path.read_bytes())
    types = skops.io.get_untrusted_types(file=path)
    assert all(name.startswith("sklearn_hfl.") for name in types)
    return skops.io.load(path, trusted=types)


@pytest.mark.parametrize("name", ["linearized", "amortized", "classifier"])
@pytest.mark.parametrize("form", ["pickle", "skops"])
@pytest.mark.parametrize("release", RELEASES)
def test_a_file_of_each_release_answers_as_it_did(release, form, name):
    model = load(FILES / release / f"{name}.{form}")
    answers = np.load(FILES / release / "answers.npz")
    ask = model.predict_proba if name == "classifier" else model.predict
    assert_allclose(np.stack(ask(answers["X"], return_std=True)), answers[name], rtol=1e-6)


@pytest.mark.parametrize("form", ["pickle", "skops"])
@pytest.mark.parametrize("release", REFUSED)
def test_files_from_before_the_first_release_are_refused_by_name(release, form):
    paths = sorted((FILES / release).glob(f"*.{form}"))
    assert paths
    for path in paths:
        with pytest.raises(ImportError, match=rf"written by sklearn_hfl {release}.*fit again"):
            load(path)


@pytest.mark.parametrize("found", [0, 999])
def test_another_format_is_refused_with_its_writer(monkeypatch, found):
    with monkeypatch.context() as patch:
        patch.setattr(storage, "FORMAT", found)
        written = pickle.dumps(HFLRegressor())
    with pytest.raises(ValueError, match=r"written by sklearn_hfl .* in format") as refusal:
        pickle.loads(written)
    assert f"format {found}" in str(refusal.value)


def test_a_state_without_a_format_is_refused():
    with pytest.raises(ValueError, match=r"before 0\.1\.0"):
        HFLRegressor().__setstate__({"max_iter": 3})
