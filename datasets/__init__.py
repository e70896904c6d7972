"""Files on disk -> one Scene value. Pixels come later, from `pixels.images.ImageStore`, the only part with torch.

The package is called distwar_datasets; in the repository that name is a link to this folder. The folder's own name
belongs to Hugging Face's package: where that is installed, `import datasets` gives it, beside this folder, too.
"""

if __name__ == "datasets":
    from .own_name import hand_over

    hand_over(__path__[0])
else:
    from .errors import DataError
    from .loading import load_scene
    from .origin import near_origin, needs_origin, round_origin, scene_origin
    from .scene import Mask, Normalisation, PointCloud, Scene, View

__all__ = [
    "DataError",
    "Mask",
    "Normalisation",
    "PointCloud",
    "Scene",
    "View",
    "load_scene",
    "near_origin",
    "needs_origin",
    "round_origin",
    "scene_origin",
]
