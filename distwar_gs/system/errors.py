"""Errors of a training run that more than one module raises."""


class TrainingError(RuntimeError):
    """A run that could not go on; the message says what is saved and what to change."""
