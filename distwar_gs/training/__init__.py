"""The loop: trainer, what it tells, repairs and samples, and the folder it holds."""
