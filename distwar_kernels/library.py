"""The ``distwar`` operator namespace: schemas live here in Python, kernels register themselves when they are loaded."""

import torch

LIBRARY = torch.library.Library("distwar", "FRAGMENT")
