"""Calibration of predictions: split conformal scores of held-out data."""

from sklearn_hfl.calibration.held_out import conformalize

__all__ = ["conformalize"]
