"""What `import datasets` gives in a folder that holds this one, as a checkout of the repository does.

Hugging Face's package of that name, where it is installed: other libraries import it (transformers does, which
torchmetrics imports for LPIPS). Else this package, whose modules are then those of distwar_datasets, not copies.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

FOLDERS_NAME, OUR_NAME = "datasets", "distwar_datasets"


def hand_over(folder: str) -> None:
    """Put into sys.modules, in the place of the package in `folder`, what should have been found.

    Raises what the other package raises when it is imported.
    """
    del sys.modules[__name__]  # the other package has no such module
    here = Path(folder).resolve()
    elsewhere = [place for place in sys.path if (Path(place) / FOLDERS_NAME).resolve() != here]
    spec = PathFinder.find_spec(FOLDERS_NAME, elsewhere)
    if spec and spec.loader and spec.origin:  # a package, not a mere folder of that name
        sys.modules[FOLDERS_NAME] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[FOLDERS_NAME])
        return
    sys.modules[FOLDERS_NAME] = importlib.import_module(OUR_NAME)
    sys.meta_path.insert(0, _SameModules())


class _SameModules(MetaPathFinder, Loader):
    """Finds datasets.scene in distwar_datasets.scene, so that no class exists twice."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(f"{FOLDERS_NAME}.") or sys.modules.get(FOLDERS_NAME) is not sys.modules.get(OUR_NAME):
            return None
        return spec_from_loader(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(OUR_NAME + spec.name.removeprefix(FOLDERS_NAME))
        self._own_specs = {**getattr(self, "_own_specs", {}), spec.name: module.__spec__}
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already; but Python has just put the other name's spec on it."""
        if module.__spec__:
            module.__spec__ = self._own_specs[module.__spec__.name]
