"""Files of Gaussians: one module a format, the axes, numbers and order they share, and their origin."""
