"""What is not yet moved to fastlab/figures."""
