"""Kernels in TIR, one file each: regime, layout, algorithm, schedule, cost."""
