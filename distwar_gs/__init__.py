"""The trainer library of distwar-gs: from a Scene (package `datasets`) to a trained set of 3D Gaussians.

Reading order: config, cli, model, renderer, losses, densification, trainer; then export, metrics, camera_paths.
"""
