"""From photos or a video to a scene: structure from motion by COLMAP (structure_from_motion.make_scene).

NumPy is imported before pycolmap: the other way round pycolmap 4.2.1 makes Pillow 13 corrupt memory as it writes PNGs.
"""

import numpy  # noqa: F401
