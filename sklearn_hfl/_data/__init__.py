"""What users pass: parameters, arrays, labels and weights, checked and standardised."""
