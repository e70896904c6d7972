"""Files of scenes -> cameras, names of images and points: COLMAP models, transforms files, point clouds."""
