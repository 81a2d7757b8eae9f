"""Scripts that the Makefile calls; none of them is installed."""
