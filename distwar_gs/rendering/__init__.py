"""From Gaussians and a camera to an image; from a scene to the views that are trained on or measured."""
