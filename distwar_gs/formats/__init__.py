"""Files of Gaussians: one module a format, the axes and numbers they share, and where their positions count from."""
