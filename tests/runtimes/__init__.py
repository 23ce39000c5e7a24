"""Real servers, workers and kernels, each of which must deliver every event once."""
