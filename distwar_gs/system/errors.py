"""Errors that more than one room raises."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file, the key and the remedy."""


class TrainingError(RuntimeError):
    """A run that could not go on; the message says what is saved and what to change."""
