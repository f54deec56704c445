"""Room 0: the mathematics, on plain torch tensors. Nothing here knows of environments, policies or loggers."""
