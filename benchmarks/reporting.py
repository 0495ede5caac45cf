"""Reporting: what the scripts of this folder print and score alike."""

from __future__ import annotations

import os
import platform
import resource

import numpy as np
import sklearn
import torch

__all__ = ["Z90", "heading", "machine", "normal_scores", "peak"]

# Half the width of a central 90 % interval, in standard deviations.
Z90 = 1.6448536269514722


def machine() -> str:
    """Where the numbers come from."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}"
    )


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def peak() -> float:
    """Largest memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def normal_scores(y: np.ndarray, mean: np.ndarray, std: np.ndarray) -> tuple[float, float]:
    """Mean log-likelihood of y, and the share of it that 90 % intervals cover."""
    z = (y - mean) / std
    log_likelihood = np.mean(-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi))
    return float(log_likelihood), float(np.mean(np.abs(z) < Z90))
