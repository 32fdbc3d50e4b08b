"""What `make bench` runs; the commands are in `__main__.py`, the figures in docs/benchmarks.md."""
