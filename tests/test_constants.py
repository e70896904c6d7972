"""One set of constants for Python, C++ and CUDA, equal to gsplat's."""

import re
from pathlib import Path

import pytest

from distwar_kernels import constants

HEADER = (Path(constants.__file__).parent / "constants.h").read_text(encoding="utf-8")


def test_values_are_gsplats():
    assert constants.TILE_SIZE == 16
    assert isinstance(constants.TILE_SIZE, int)
    assert pytest.approx(1 / 255) == constants.ALPHA_CUT
    assert constants.ALPHA_CAP == 0.999
    assert constants.TRANSMITTANCE_CUT == 1e-4
    assert constants.BLUR == 0.3
    assert constants.EXTENT == 3.33
    assert constants.FRUSTUM_MARGIN == 0.3
    assert constants.MAX_CHANNELS == 32


def test_every_constant_of_the_header_has_a_python_name():
    names = re.findall(r"constexpr \w+ k(\w+)", HEADER)
    assert len(names) == HEADER.count("constexpr ")
    for name in names:
        python_name = re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()
        assert isinstance(getattr(constants, python_name), (int, float)), python_name


@pytest.mark.parametrize(("enum", "prefix"), [("SplatWord", "k"), ("GradientWord", "kGrad")])
def test_the_picture_of_a_record_has_its_words_in_order(enum, prefix):
    package = Path(constants.__file__).parent
    body = re.search(
        rf"enum {enum} {{(.*?)}};", (package / "records.cuh").read_text(encoding="utf-8"), re.DOTALL
    ).group(1)
    words = re.findall(rf"^\s+({prefix}\w+),", body, re.MULTILINE)
    assert len(words) == constants.SPLAT_FLOATS - 3  # the colour's four count as one
    picture = (package.parent / "docs/kernels.md").read_text(encoding="utf-8").partition("gradient record\n")[2]
    drawn = re.findall(r"\bk[A-Z]\w+", picture.partition("A splat keeps")[0])
    assert [word for word in drawn if word.startswith("kGrad") == (prefix == "kGrad")] == words


def test_numbers_are_written_nowhere_else():
    """The kernels take these from the header: a second copy could drift."""
    sources = [path for path in Path(constants.__file__).parent.rglob("*.c*") if path.suffix != ".pyc"]
    assert len(sources) > 20
    for path in sources:
        code = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
        assert not re.search(r"\b(255|0\.999|3\.33)\b", code), path.name
