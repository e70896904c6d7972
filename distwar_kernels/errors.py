"""What goes wrong with kernels, in one line each."""


class KernelError(RuntimeError):
    """The kernels cannot be built or used here; the message says what is missing and what to do."""
