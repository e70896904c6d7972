"""The gradients that a step hands to an engine, by name."""

from collections.abc import Mapping

from torch import Tensor


def image_gradient(gradients: Mapping[str, Tensor], with_depth: bool) -> Tensor:
    """The gradient of the image [H, W, 3]. Raises ValueError for gradients of what was not rendered."""
    possible = {"image", "depth"} if with_depth else {"image"}
    if "image" not in gradients or set(gradients) - {"errors"} - possible:
        what = "the image and its depth" if with_depth else "the image"
        raise ValueError(f"this engine differentiates {what} only, not {', '.join(sorted(gradients))}")
    return gradients["image"]


def errors_of(gradients: Mapping[str, Tensor], statistics: Mapping[str, Tensor] | None, step: int) -> Tensor | None:
    """The errors [H, W] that this step's score is made of; None where the strategy's statistics have no score."""
    if statistics is None or "score" not in statistics:
        return None
    if "errors" not in gradients:
        raise ValueError(f"the strategy asks for a score at step {step}: hand the errors of the pixels on as `errors`")
    return gradients["errors"]
