"""Calibration of predictions: split conformal scores of held-out data."""
