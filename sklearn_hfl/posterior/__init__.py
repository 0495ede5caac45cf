"""What is optimised: network, likelihood and prior, joined in the log posterior."""
