"""How the number of Gaussians and their places are governed: one module per strategy."""
