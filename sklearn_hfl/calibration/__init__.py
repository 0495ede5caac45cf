"""How predictions are given coverage: scores of rows that were held out."""
