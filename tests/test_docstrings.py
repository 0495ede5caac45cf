"""Docstrings: every parameter and attribute is there, with the default of the signature."""

from __future__ import annotations

import ast
import inspect
import re
import warnings

import numpy as np
import pytest

import sklearn_hfl
from sklearn_hfl import HFLRegressor

PUBLIC = sklearn_hfl.__all__
METHODS = (
    "fit",
    "conformalize",
    "from_mlp",
    "from_torch",
    "influence",
    "loo_predict",
    "predict",
    "predict_distribution",
    "predict_functional",
    "predict_interval",
    "predict_uncertainty",
    "sample_y",
)


def section(docstring, title):
    """Entries {name: text} of a numpydoc section, several names in one entry separately."""
    text = inspect.cleandoc(docstring)
    match = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
    entries = {}
    if match:
        for head, body in re.findall(
            r"^(?:\*\*)?(\w[^\n]*)\n((?:(?: {4}[^\n]*)?(?:\n|\Z))*)", match[1], re.MULTILINE
        ):
            names, _, kind = head.partition(" : ")
            for name in names.split(", "):
                entries[name] = (kind, body.strip())
    return entries


def documented_default(kind):
    return ast.literal_eval(re.search(r"default=(.*)$", kind)[1])


PARAMETERS = section(HFLRegressor.__doc__, "Parameters")
DEFAULTS = {n: p.default for n, p in inspect.signature(HFLRegressor).parameters.items()}


def test_parameters_are_documented_in_the_order_of_the_signature():
    assert list(PARAMETERS) == list(DEFAULTS)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_parameter_is_documented_with_its_default(name):
    kind, text = PARAMETERS[name]
    default = documented_default(kind)
    assert default == DEFAULTS[name]
    assert type(default) is type(DEFAULTS[name])
    assert text.endswith(".")


CHOICES = [
    (name, choice)
    for name, (kind, _) in PARAMETERS.items()
    if (braces := re.search(r"\{.*\}", kind))
    for choice in ast.literal_eval(braces[0].replace("{", "[").replace("}", "]"))
]


@pytest.mark.filterwarnings("ignore:The MAP is not stationary")
@pytest.mark.parametrize(("name", "choice"), CHOICES)
def test_a_documented_choice_is_accepted(name, choice):
    params = {
        "hidden_layer_sizes": (2,),
        "n_estimators": 1,
        "prior_precision": 1.0,
        "max_iter": 2,
        name: choice,
    }
    X = np.linspace(-1, 1, 10)[:, None]
    HFLRegressor(**params).fit(X, X[:, 0])


@pytest.mark.parametrize("name", sorted({name for name, _ in CHOICES}))
def test_no_choice_is_left_out_of_the_documentation(name):
    X = np.linspace(-1, 1, 10)[:, None]
    with pytest.raises(ValueError, match=f"{name} must be") as caught:
        HFLRegressor(**{name: "another"}).fit(X, X[:, 0])
    allowed = str(caught.value).split(", but got")[0]
    assert set(re.findall(r"'([\w-]+)'", allowed)) == {c for n, c in CHOICES if n == name}


def test_fitted_attributes_are_those_documented():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame({"a": np.linspace(-1, 1, 10)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HFLRegressor(hidden_layer_sizes=(2,), max_iter=2).fit(X, X["a"])
        model.conformalize(X, X["a"])
    attributes = {n for n in vars(model) if n.endswith("_") and not n.startswith("_")}
    assert set(section(HFLRegressor.__doc__, "Attributes")) == attributes


@pytest.mark.parametrize("name", METHODS)
def test_a_method_documents_its_arguments_and_defaults(name):
    method = getattr(HFLRegressor, name)
    entries = section(method.__doc__, "Parameters")
    parameters = dict(inspect.signature(getattr(HFLRegressor(), name)).parameters)
    assert list(entries) == list(parameters)
    for argument, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            assert documented_default(entries[argument][0]) == parameter.default
    assert section(method.__doc__, "Returns")


def test_no_public_method_is_forgotten_above():
    inherited = {n for base in HFLRegressor.__mro__[1:] if "sklearn." in base.__module__
                 and not base.__module__.startswith("sklearn_hfl") for n in vars(base)}  # fmt: skip
    names = {
        n
        for n, member in inspect.getmembers(HFLRegressor)
        if callable(member) and not n.startswith("_") and n not in inherited
        and not re.match(r"set_\w+_request", n)
    }  # fmt: skip
    assert names == set(METHODS)


@pytest.mark.parametrize("name", ["HFLRegressor", *METHODS[1:]])
def test_public_names_have_examples(name):
    documented = HFLRegressor if name == "HFLRegressor" else getattr(HFLRegressor, name)
    assert ">>> " in documented.__doc__


def test_all_lists_what_is_public():
    assert sorted(PUBLIC, key=str.lower) == sorted(set(PUBLIC), key=str.lower)
    modules = {n for n, value in vars(sklearn_hfl).items() if inspect.ismodule(value)}
    public = {n for n in vars(sklearn_hfl) if not n.startswith("_")} - modules
    assert public | {"__version__"} == set(PUBLIC)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_a_public_name_is_documented(name):
    value = getattr(sklearn_hfl, name)
    first = inspect.cleandoc(value.__doc__).splitlines()[0]
    assert first.endswith(".")
    assert len(first) < 100


def test_the_version_is_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.?(dev|a|b|rc)\d+)?", sklearn_hfl.__version__)


def test_the_package_documents_itself():
    assert sklearn_hfl.__doc__.startswith("Neural networks with error bars")
