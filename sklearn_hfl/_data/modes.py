"""Modes of torch that a caller may have set, and under which no fit or query would work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["own_modes"]


@contextmanager
def own_modes() -> Iterator[None]:
    """Record gradients in inference mode too, and make tensors on the CPU.

    Tensors reach the device of an estimator from there, whatever ``torch.set_default_device`` says:
    its random generators are those of the CPU.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
