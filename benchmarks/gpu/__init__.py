"""One command for the first machine that has a GPU: `python -m benchmarks.gpu`, or `make gpu`."""
