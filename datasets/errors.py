"""The one exception of this package."""


class DataError(ValueError):
    """A scene on disk that cannot be used; the message names the file and the remedy."""
