"""CUDA: targets and their facts, and the toolchain from CUDA C to machine code for several GPUs."""
