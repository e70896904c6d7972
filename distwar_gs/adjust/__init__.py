"""What is learned beside the Gaussians: of each photo or each camera."""
