"""The whole system at work on real digits: what `make demo` and `make serve` run."""
