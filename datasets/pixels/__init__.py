"""From the names of images to their pixels: files found, paired, masked, undistorted, resized, cached, decoded."""
