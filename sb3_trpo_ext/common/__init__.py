"""Room 1: where the kernels meet Stable-Baselines3's policies, buffers and loggers."""
