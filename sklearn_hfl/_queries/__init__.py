"""What a fitted estimator answers: the pages of its public methods."""
