"""The files of configs/, which come with the program."""

from pathlib import Path


def found_config(path: str) -> Path:
    """`path`; where it begins with configs/ and names no file, the file of that name that came with the program.

    Those are in the folder of the package where it is installed, else in the repository.
    """
    asked = Path(path)
    if asked.exists() or asked.parts[:1] != ("configs",):
        return asked
    places = [folder / asked for folder in Path(__file__).resolve().parents[1:3]]
    return next((place for place in places if place.is_file()), asked)
