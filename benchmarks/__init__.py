"""Benchmarks: each prints a table and, with --json FILE, saves its rows with versions and device. `make bench` runs settle."""
