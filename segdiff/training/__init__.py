"""Training a change detector: losses, metrics, callbacks and the run itself."""
