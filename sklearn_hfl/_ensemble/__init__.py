"""The members of one fit, and what they answer together."""
