"""What a wheel holds; all else about the project is in pyproject.toml.

The folders are packages under names of our own, since `datasets` and `scripts` are names of others:

    distwar_gs, distwar_kernels     as they are; the kernels' C++ and CUDA sources, which are compiled when first used;
                                    the live viewer's page
    datasets/                       distwar_datasets
    scripts/, configs/              distwar_gs.scripts, distwar_gs.configs
"""

from setuptools import find_packages, setup

FOLDERS = {
    "distwar_datasets": "datasets",
    "distwar_gs": "distwar_gs",
    "distwar_gs.configs": "configs",
    "distwar_gs.scripts": "scripts",
    "distwar_kernels": "distwar_kernels",
}

setup(
    packages=sorted({*FOLDERS, *(f"{name}.{room}" for name, at in FOLDERS.items() for room in find_packages(at))}),
    package_dir=FOLDERS,
    package_data={
        "distwar_gs.configs": ["**/*.yaml"],
        "distwar_gs.viewing.live": ["page/*.html", "page/*.css", "page/*.js"],
        "distwar_gs.formats": ["viewer/*"],
        "distwar_gs.viewing.report": ["*.html"],
        "distwar_kernels": ["**/*.cpp", "**/*.cu", "**/*.cuh", "**/*.h"],
    },
)
