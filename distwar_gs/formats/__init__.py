"""Files of Gaussians: one module per format, the axes, numbers and order they share, and their origin."""
