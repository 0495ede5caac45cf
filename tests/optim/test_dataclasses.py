"""What the numerical layers hand on stays as it was: results cached from it stay true."""

import importlib
import pkgutil
from dataclasses import is_dataclass

import pytest

from sklearn_hfl import optim, uncertainty

MODULES = [
    importlib.import_module(f"{package.__name__}.{module.name}")
    for package in (optim, uncertainty)
    for module in pkgutil.iter_modules(package.__path__)
]
CLASSES = {value for module in MODULES for value in vars(module).values() if is_dataclass(value)}


@pytest.mark.parametrize("cls", sorted(CLASSES, key=str), ids=lambda cls: cls.__name__)
def test_no_field_can_be_set_anew(cls):
    made = object.__new__(cls)
    for name in cls.__dataclass_fields__:
        with pytest.raises(AttributeError, match="cannot assign to field"):
            setattr(made, name, None)
