"""How optima are found: the MAP, and the perturbed optima around it."""
