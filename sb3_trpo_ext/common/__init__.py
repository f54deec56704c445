"""Room 1: what any algorithm here needs of Stable-Baselines3's policies, buffers and loggers."""
