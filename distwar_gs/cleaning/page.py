"""What a cleaning came to, as one HTML file with its pictures in it: it loads nothing from anywhere."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from distwar_gs.cleaning.result import ChangedView, Comparison
from distwar_gs.system.files import replacing
from distwar_gs.viewing.report.pictures import jpeg_url

GAIN = 8
"""By which differences are multiplied, to be seen."""
_WIDEST = 800  # pixels of a picture's longer side
_QUALITY = 90

MEANINGS = {
    "bounds": "outside of the bounds that were given",
    "crop": "outside of the crop box",
    "unseen": "in the picture of no training camera",
    "haze": "faint and wide, before the nearest things, seen by few cameras",
    "islands": "in a small group that touches nothing else",
    "contribution": "of hardly any weight in any pixel of any training camera",
}
"""What each rule takes, in words."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222;
       background: #fff }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .2em .9em .2em 0; text-align: left }
td.n, th.n { text-align: right } tr.sum td { border-top: 1px solid #999; font-weight: 600 }
.views { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: .6em }
figure { margin: 0 } img { width: 100%; display: block } figcaption, .small { font-size: 13px; color: #555 }
"""


def write_page(path: Path, title: str, removed: Mapping[str, int], count: int, comparison: Comparison | None) -> None:
    """Write the page, atomically.

    Args:
        path: the file.
        title: what was cleaned.
        removed: how many Gaussians each rule took, in order.
        count: how many there were.
        comparison: None where no scene was there to look at.
    """
    body = [f"<h1>{escape(title)}</h1>", _counts(removed, count)]
    body += _measured(comparison) if comparison else ["<p>Without a scene nothing could be measured.</p>"]
    head = f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    text = f"{head}<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _counts(removed: Mapping[str, int], count: int) -> str:
    gone = sum(removed.values())
    rows = [_row(name, MEANINGS[name], f"{taken:,}", _share(taken, count)) for name, taken in removed.items()]
    rows.append(_row("left", f"of {count:,} Gaussians", f"{count - gone:,}", _share(count - gone, count), "sum"))
    head = '<tr><th>rule</th><th>takes what is</th><th class="n">Gaussians</th><th class="n">share</th></tr>'
    return f"<table>{head}{''.join(rows)}</table><p class=small>Each rule takes from what those before it left.</p>"


def _row(name: str, meaning: str, number: str, share: str, kind: str = "") -> str:
    numbers = f'<td class="n">{number}</td><td class="n">{share}</td>'
    return f'<tr class="{kind}"><td>{name}</td><td>{meaning}</td>{numbers}</tr>'


def _share(part: int, whole: int) -> str:
    return f"{100.0 * part / whole:.2f} %"


def _measured(comparison: Comparison) -> list[str]:
    """The numbers before and after, their protocol, and the views that changed most."""
    views = len(comparison.before.views)
    head = f'<tr><th>{comparison.split}, {views} views</th><th class="n">before</th><th class="n">after</th></tr>'
    numbers = [(name, old, comparison.after.numbers[name]) for name, old in comparison.before.numbers.items()]
    rows = [
        f'<tr><td>{name.upper()}</td><td class="n">{old:.4f}</td><td class="n">{new:.4f}</td></tr>'
        for name, old, new in numbers
        if old is not None and new is not None
    ]
    protocol = "; ".join(f"{name}: {value}" for name, value in comparison.before.protocol.items())
    parts = [f"<table>{head}{''.join(rows)}</table>", f'<p class="small">{escape(protocol)}</p>']
    parts.append(f"<h2>The views that changed most</h2><p class=small>Differences are {GAIN} times as large.</p>")
    return [*parts, *(_figures(view, comparison) for view in comparison.changed)]


def _figures(view: ChangedView, comparison: Comparison) -> str:
    old, new = (
        next(one.psnr for one in measured.views if one.name == view.name)
        for measured in (comparison.before, comparison.after)
    )
    difference = (GAIN * (view.after.int() - view.before.int()).abs()).clamp_max(255).byte()
    pictures = (
        (view.before, f"before, {old:.2f} dB"), (view.after, f"after, {new:.2f} dB"), (difference, "difference"),
        (view.photo, "photo"),
    )  # fmt: skip
    figures = "".join(
        f'<figure><img alt="{text}" src="{_data_uri(picture)}"><figcaption>{text}</figcaption></figure>'
        for picture, text in pictures
    )
    title = f"{escape(view.name)}: {view.change:.2f} of 255 levels on average"
    return f'<h3>{title}</h3><div class="views">{figures}</div>'


def _data_uri(picture: Tensor) -> str:
    """A picture [H, W, 3] uint8 as JPEG, in the address of an image."""
    image = Image.fromarray(np.ascontiguousarray(picture.numpy()))
    image.thumbnail((_WIDEST, _WIDEST))
    return jpeg_url(image, _QUALITY)
