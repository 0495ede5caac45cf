"""Fitted estimators around networks that were trained elsewhere."""
