"""Benchmarks: ``nox -s bench`` or ``./run bench [NAME …]``; see docs/benchmarks.md."""
