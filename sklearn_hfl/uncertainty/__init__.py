"""Quantities made from perturbed optima: variances, covariances, the evidence."""
