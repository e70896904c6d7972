"""The Gaussians: parameters, first points, rows and their order in memory, optimizers, how many fit into memory."""
