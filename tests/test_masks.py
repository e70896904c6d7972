"""Which pixels count: reading, pairing, polarity, and the way through undistortion."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scene_files import write_colmap, write_image

from distwar_datasets import DataError, Mask, View, load_scene
from distwar_datasets.pixels.images import ImageStore
from distwar_datasets.pixels.masks import decode_mask, ignored_share, with_masks

KEPT = np.zeros((40, 64), bool)
KEPT[10:30, 20:50] = True


def write_mask(path, kept=KEPT, low=0, high=255, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(kept, high, low).astype(np.uint8)).save(path, **options)
    return Mask(path)


def views_named(*names):
    return [View(name, Path(name), 64, 40, np.eye(3), np.eye(4), 1) for name in names]


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (0, 128), (40, 255)])
def test_levels(tmp_path, low, high):
    mask = write_mask(tmp_path / "a.png", low=low, high=high)
    np.testing.assert_array_equal(decode_mask(mask, (64, 40)), KEPT)
    np.testing.assert_array_equal(decode_mask(replace(mask, inverted=True), (64, 40)), ~KEPT)


def test_all_black_and_all_white(tmp_path):
    assert not decode_mask(write_mask(tmp_path / "a.png", ~KEPT & KEPT), (64, 40)).any()
    assert decode_mask(write_mask(tmp_path / "b.png", KEPT | ~KEPT), (64, 40)).all()


def test_modes_of_files(tmp_path):
    for name, image in {
        "bits.png": Image.fromarray(KEPT),
        "deep.png": Image.fromarray(KEPT.astype(np.uint16) * 40000),
        "colour.png": Image.fromarray(np.dstack([KEPT * np.uint8(200)] * 3)),
        "palette.png": Image.fromarray(np.dstack([KEPT * np.uint8(200)] * 3)).convert("P"),
        "clear.png": Image.fromarray(np.dstack([KEPT * np.uint8(255)] * 3 + [np.full_like(KEPT, 255, np.uint8)])),
    }.items():
        image.save(tmp_path / name)
        np.testing.assert_array_equal(decode_mask(Mask(tmp_path / name), (64, 40)), KEPT, err_msg=name)


def test_a_larger_mask_ignores_what_it_ignores_in_part(tmp_path):
    big = np.ones((80, 128), bool)
    big[11, 21] = False
    small = decode_mask(write_mask(tmp_path / "a.png", big), (64, 40))
    assert np.argwhere(~small).tolist() == [[5, 10]]


@pytest.mark.parametrize("file", ["left/a.jpg.png", "left/a.png", "left/a.JPG", "a.jpg.png", "a.png"])
def test_names(tmp_path, file):
    write_mask(tmp_path / "masks" / file)
    views = with_masks(views_named("left/a.jpg", "right/b.jpg"), tmp_path, "masks", False)
    assert views[0].mask == Mask(tmp_path / "masks" / file) and views[1].mask is None


FORMS = ("{}.mask.png", "{stem}.mask.png", "{stem}_mask.png", "{}_mask.png", "mask_{stem}.jpg", "{stem}-mask.PNG")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["left/a.jpg", "left/frame.0001"])
def test_names_that_other_programs_give(tmp_path, form, name):
    stem = name.removeprefix("left/").removesuffix(".jpg")
    file = "left/" + form.format(name.removeprefix("left/"), stem=stem)
    write_mask(tmp_path / "masks" / file)
    write_mask(tmp_path / "masks/left/mask.png")
    write_mask(tmp_path / "masks/left/frame.0002.png")
    views = with_masks(views_named(name, "left/b.jpg"), tmp_path, "masks", False)
    assert views[0].mask == Mask(tmp_path / "masks" / file) and views[1].mask is None


def photographs(folder, *names):
    return [replace(view, image_path=write_image(folder / view.name, 64, 40)) for view in views_named(*names)]


@pytest.mark.parametrize("form", FORMS)
def test_masks_beside_the_images(tmp_path, form, caplog):
    views = photographs(tmp_path, "left/a.jpg", "right/a.jpg", "right/b.jpg")
    masks = [write_mask(tmp_path / side / form.format("a.jpg", stem="a")) for side in ("left", "right")]
    with caplog.at_level(logging.INFO, logger="distwar_datasets"):
        assert [view.mask for view in with_masks(views, tmp_path, "masks", False)] == [*masks, None]
    assert "masks of 2 images are beside them, as " in caplog.text
    assert [view.mask for view in with_masks(views, tmp_path, None, False)] == [None] * 3


def test_masks_beside_the_photographs_of_which_smaller_copies_are_used(tmp_path):
    mask = write_mask(tmp_path / "images/left/a.JPG.mask.png")
    view = replace(photographs(tmp_path / "images_2", "left/a.png")[0], name="left/a.JPG")
    assert with_masks([view], tmp_path, "masks", False)[0].mask == mask


def test_a_photograph_is_no_mask(tmp_path):
    views = photographs(tmp_path / "images", "a.png", "a_mask.png", "mask_b.png", "b.png")
    assert [view.mask for view in with_masks(views, tmp_path, "masks", False)] == [None] * 4
    with pytest.raises(DataError, match="none of its files is the mask"):
        with_masks(views, tmp_path, "images", False)
    mask = write_mask(tmp_path / "images/a_mask.png.png")
    assert with_masks(views, tmp_path, "images", False)[1].mask == mask


@pytest.mark.parametrize("names", [("a.jpg", "a.png"), ("left/a.png", "right/a.png"), ("A.png", "a.png")])
def test_a_mask_is_that_of_one_photograph(tmp_path, names):
    write_mask(tmp_path / "masks/a.jpg")
    with pytest.raises(
        DataError, match=rf"a\.jpg: could be the mask of {names[0]} or of {names[1]}; make one for each"
    ):
        with_masks(photographs(tmp_path, *names), tmp_path, "masks", False)
    masks = [write_mask(tmp_path / f"masks/{name}.png") for name in names]
    assert [view.mask for view in with_masks(photographs(tmp_path, *names), tmp_path, "masks", False)] == masks


def test_a_photograph_that_is_tested_and_trained_has_its_mask_twice(tmp_path):
    mask = write_mask(tmp_path / "masks/a.png")
    views = photographs(tmp_path, "a.jpg")
    assert [view.mask for view in with_masks([*views, replace(views[0])], tmp_path, "masks", False)] == [mask, mask]


def test_a_mask_of_the_view_comes_first_and_everything_is_inverted(tmp_path):
    write_mask(tmp_path / "masks/a.png")
    write_mask(tmp_path / "masks/b.png")
    own = Mask(tmp_path / "own.png", inverted=True)
    views = [replace(view, mask=mask) for view, mask in zip(views_named("a.jpg", "b.jpg"), (own, None), strict=True)]
    assert [view.mask.inverted for view in with_masks(views, tmp_path, "masks", False)] == [True, False]
    assert [view.mask.inverted for view in with_masks(views, tmp_path, "masks", True)] == [False, True]
    assert [view.mask for view in with_masks(views, tmp_path, None, False)] == [None, None]


def test_folders_that_are_missing(tmp_path):
    assert with_masks(views_named("a.jpg"), tmp_path, "masks", False)[0].mask is None
    with pytest.raises(DataError, match="people: no such mask folder; set data.masks"):
        with_masks(views_named("a.jpg"), tmp_path, "people", False)


def test_the_ignored_share_counts_all_views(tmp_path):
    views = views_named("a.jpg", "b.jpg")
    views[0] = replace(views[0], mask=write_mask(tmp_path / "a.png"))
    assert ignored_share(views) == pytest.approx((64 * 40 - 600) / (2 * 64 * 40))
    assert ignored_share([]) == 0.0


RADIAL = {"model": "SIMPLE_RADIAL", "params": (50, 30, 17, 0.1), "names": ["a.png"]}


def undistorted_mask(source, **options):
    return load_scene(source, test_every=0, undistort="always", **options).train[0].mask


def test_undistorted_masks_are_cached_by_what_they_are_made_of(tmp_path):
    source = write_colmap(tmp_path, **RADIAL)
    mask = write_mask(source / "masks/a.png.png")
    first, inverted = undistorted_mask(source), undistorted_mask(source, invert_masks=True)
    assert not first.inverted and not inverted.inverted, "the copy has the polarity of COLMAP"
    assert first.path.parent != inverted.path.parent
    os.utime(mask.path, ns=(1, 1))
    assert undistorted_mask(source).path.parent not in (first.path.parent, inverted.path.parent)
    first.path.unlink()
    assert undistorted_mask(source).path.is_file()


def test_no_pixel_blended_from_ignored_ones_counts(tmp_path):
    """Bright where ignored, black where kept: after undistortion every pixel that counts must still be black."""
    source = write_colmap(tmp_path, **RADIAL)
    write_mask(source / "masks/a.png.png")
    Image.fromarray(np.where(KEPT, 0, 255).astype(np.uint8)).convert("RGB").save(source / "images/a.png")
    view = load_scene(source, test_every=0, undistort="always").train[0]
    kept = decode_mask(view.mask, (view.width, view.height))
    assert 300 < kept.sum() < 700
    assert np.asarray(Image.open(view.image_path))[kept].max() == 0


def test_more_than_half_ignored_is_pointed_out(tmp_path, caplog):
    view = replace(views_named("a.png")[0], image_path=write_image(tmp_path / "a.png", 64, 40))
    view = replace(view, mask=write_mask(tmp_path / "m.png"))
    with caplog.at_level(logging.INFO, logger="distwar_datasets"):
        ImageStore([view], background=None, device="cpu", budget_bytes=0)
    assert "masks of 1 of 1 images ignore 76.6 % of all pixels" in caplog.text and "--invert_masks" in caplog.text


# ------------------------------------------------------------------------------------------------- alpha as a mask

GRAY = np.full((40, 64), 90, np.uint8)


def save_transparent(path, kept=KEPT, low=0, high=255, mode="RGBA"):
    """A photo, grey everywhere, that is transparent where it is not kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    alpha = np.where(kept, high, low).astype(np.uint8)
    if mode == "palette":  # one colour of which is transparent
        image = Image.fromarray(np.where(kept, 1, 0).astype(np.uint8), "P")
        image.putpalette([90, 90, 90] * 2)
        image.save(path, transparency=0)
        return
    image = Image.fromarray(np.dstack([GRAY, GRAY, GRAY, alpha]), "RGBA").convert(mode)
    image.save(path, **({"lossless": True, "exact": True} if path.suffix == ".webp" else {}))


def pixels_and_mask(source, **options):
    view = load_scene(source, test_every=0, alpha="mask", **options).train[0]
    photo = ImageStore([view], background=(1.0, 0.0, 0.0), device="cpu", budget_bytes=0).photo(0)
    return photo.pixels.numpy(), photo.kept.numpy()


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.png", "RGBA"), ("a.png", "LA"), ("a.png", "palette"), ("a.webp", "RGBA"), ("a.tif", "RGBA")],
)
def test_alpha_is_a_mask_where_that_is_asked_for(tmp_path, name, mode):
    source = write_colmap(tmp_path, names=["a.png"], images=None)
    save_transparent(source / "images" / name, mode=mode)
    pixels, kept = pixels_and_mask(source)
    np.testing.assert_array_equal(kept, KEPT)
    assert pixels.shape == (40, 64, 3) and (pixels == 90).all(), "colours under the alpha are as they were"
    view = load_scene(source, test_every=0).train[0]
    laid = ImageStore([view], background=(1.0, 0.0, 0.0), device="cpu", budget_bytes=0)
    assert laid.mask(0) is None and laid[0][0, 0].tolist() == [255, 0, 0] and laid.transparent == 1


def test_alpha_and_masks_are_both_obeyed(tmp_path):
    source = write_colmap(tmp_path, names=["a.png"], images=None)
    save_transparent(source / "images/a.png")
    half = np.zeros_like(KEPT)
    half[:, :32] = True
    write_mask(source / "masks/a.png", half)
    np.testing.assert_array_equal(pixels_and_mask(source)[1], KEPT & half)
    np.testing.assert_array_equal(pixels_and_mask(source, invert_masks=True)[1], KEPT & ~half)
    np.testing.assert_array_equal(pixels_and_mask(source, masks=None)[1], KEPT)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (60, 200), (127, 255)])
def test_levels_of_alpha(tmp_path, low, high):
    """Soft edges are cut at half, as in masks."""
    source = write_colmap(tmp_path, names=["a.png"], images=None)
    save_transparent(source / "images/a.png", low=low, high=high)
    np.testing.assert_array_equal(pixels_and_mask(source)[1], KEPT)


def test_alpha_goes_the_way_of_its_photo(tmp_path):
    """Undistorted and resized; no hidden colour (white, here) gets into a pixel that counts."""
    source = write_colmap(tmp_path, images=None, size=(64, 40), **{**RADIAL, "params": (50, 30, 17, 0.05)})
    white = np.where(KEPT, 90, 255).astype(np.uint8)
    (source / "images").mkdir()
    pixels = np.dstack([white] * 3 + [np.where(KEPT, 255, 0).astype(np.uint8)])
    Image.fromarray(pixels, "RGBA").save(source / "images/a.png")
    for options, least in (({}, 400), ({"resolution": 2}, 80), ({"resolution": 50}, 200)):
        shown, kept = pixels_and_mask(source, undistort="always", **options)
        assert least < kept.sum() < 600 and (shown[kept] == 90).all(), options


def test_copies_for_either_meaning_of_alpha_are_kept_apart(tmp_path):
    source = write_colmap(tmp_path, names=["a.png"], images=None)
    save_transparent(source / "images/a.png")
    as_background, as_mask = (load_scene(source, test_every=0, resolution=2, alpha=alpha).train[0].image_path
                              for alpha in ("background", "mask"))  # fmt: skip
    assert Image.open(as_background).mode == "RGBA" and Image.open(as_mask).mode == "RGB"


def test_opaque_photos_are_not_called_transparent(tmp_path):
    source = write_colmap(tmp_path, names=["a.png"], images=None)
    save_transparent(source / "images/a.png", kept=KEPT | ~KEPT)
    view = load_scene(source, test_every=0).train[0]
    assert ImageStore([view], background=(0.0, 0.0, 0.0), device="cpu", budget_bytes=0).transparent == 0


def test_a_photo_that_is_transparent_everywhere_names_the_remedy(tmp_path):
    source = write_colmap(tmp_path, names=["a.png"], images=None)
    save_transparent(source / "images/a.png", kept=KEPT & ~KEPT)
    with pytest.raises(DataError, match="a.png: ignores the whole image; .* or use data.alpha=background"):
        pixels_and_mask(source)


def test_another_meaning_of_alpha_is_refused(tmp_path):
    with pytest.raises(DataError, match="alpha 'masks': use one of background, mask"):
        load_scene(write_colmap(tmp_path), alpha="masks")
