"""Benchmarks: ``python -m benchmarks.cpu``; see README.md in this folder."""
