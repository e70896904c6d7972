"""One training step: the page to read first."""

import logging

import torch
from torch import Tensor

from distwar_gs.adjust.sharing import step_together
from distwar_gs.engines.base import Rendered
from distwar_gs.engines.timing import StepTimer
from distwar_gs.evaluation.losses import photometric_gradients
from distwar_gs.gaussians.model import sh_degree_of
from distwar_gs.gaussians.optimizer import set_learning_rates
from distwar_gs.gaussians.shards import rebalance
from distwar_gs.strategies.base import wants_score
from distwar_gs.training.batch import Batch
from distwar_gs.training.batches import StepResult
from distwar_gs.training.state import TrainingState
from distwar_kernels import Cameras

log = logging.getLogger(__name__)


def refine(state: TrainingState) -> None:
    """The density control that the last step made due.

    It comes before the next step and not after its own: so the model that is measured and saved after a step has been
    trained with all its Gaussians (the 3DGS reference evaluates before it densifies, too).
    """
    step, strategy = state.step, state.strategy
    if strategy.is_due(step):
        state.engine.settle(step)
    report = strategy.step(step, state.params, state.optimizers, state.generators["device"])
    if report:
        rebalance(state.ranks, state.params, state.optimizers, strategy.state)
        log.debug("after step %d: %s", step, report)


def train_step(state: TrainingState, batch: Batch, timer: StepTimer) -> StepResult:
    """One image, on each rank or on all together: render, compare, differentiate, update."""
    step, weight = state.step + state.views, state.config.optim.lambda_dssim
    rates, (camera, together) = _set_rates(state, step), _adjusted_cameras(state, batch)
    rendered = state.engine.forward(
        step, camera, state.sh_degree(step), batch.background, *together, with_depth=_shows_depth(state, batch)
    )
    image = _adjusted_image(state, batch, rendered.image)
    timer.mark("forward")
    scored = wants_score(state.strategy, step)
    gradients, losses = photometric_gradients(
        image, batch.photo, weight, batch.background, batch.mask, with_errors=scored
    )
    _adjust_backward(state, gradients)
    _compare_depth(state, batch, rendered, gradients)
    timer.mark("loss")
    state.engine.update(rendered, gradients, timer)
    _adjust_step(state, batch, step)
    image = image.detach()
    del rendered  # its buffers, and the graph
    state.strategy.perturb(step, state.params, rates["means"], state.generators["device"])
    timer.mark("optimizer")
    state.step = step
    return StepResult(batch, image, losses, rates, timer)


def _adjusted_cameras(state: TrainingState, batch: Batch) -> tuple[Cameras, list[Cameras]]:
    """Of this rank's view, and of those of all; adjustments bear in mind the one that they were asked for last."""
    together = [_adjusted(state, *one) for one in zip(batch.views, batch.together, strict=True)]
    return _adjusted(state, batch.view, batch.camera), together


def _adjusted(state: TrainingState, view: int, camera: Cameras) -> Cameras:
    for adjustment in state.adjustments:
        camera = adjustment.camera(view, camera)
    return camera


def _shows_depth(state: TrainingState, batch: Batch) -> bool:
    """Whether anything is known of the depth of a view of this step: all ranks exchange the same."""
    own = ((batch.view, batch.camera),)
    views = zip(batch.views, batch.together, strict=True) if batch.views else own
    return state.depths is not None and any(state.depths.has(*one) for one in views)


def _compare_depth(state: TrainingState, batch: Batch, rendered: Rendered, gradients: dict[str, Tensor]) -> None:
    """Adds the gradient of the depth where something is known of it in this view."""
    depths = state.depths if state.depths and state.depths.has(batch.view, batch.camera) else None
    if depths and (depth := rendered.depth):
        gradients["depth"] = depths.gradient(batch.view, *depth, state.schedule.share(state.step + state.views))


def _adjusted_image(state: TrainingState, batch: Batch, image: Tensor) -> Tensor:
    """What is compared; what was rendered where nothing is adjusted."""
    for adjustment in state.adjustments:
        image = adjustment.image(batch.view, image.detach())
    return image


def _adjust_backward(state: TrainingState, gradients: dict[str, Tensor]) -> None:
    """Makes gradients in what was compared gradients in what was rendered."""
    for adjustment in reversed(state.adjustments):
        gradients["image"] = adjustment.backward(gradients["image"])


def _adjust_step(state: TrainingState, batch: Batch, step: int) -> None:
    """The adjustments take their step: those of cameras have their gradients only now."""
    share = state.schedule.share(step)
    if state.ranks.count > 1:
        step_together(state.adjustments, batch.views or (batch.view,), state.ranks, share)
        return
    for adjustment in state.adjustments:
        adjustment.step(share)


def _set_rates(state: TrainingState, step: int) -> dict[str, float]:
    schedule, config = state.schedule, state.config
    position, share = schedule.at(step).position, schedule.share(step)
    return set_learning_rates(state.optimizers, position, config.optim, state.extent, share, state.views)


@torch.no_grad()
def loss_of(state: TrainingState, batch: Batch) -> float:
    """The loss of a training view as the model is now, with all its harmonics; waits for the device. All ranks ask."""
    background, degree = batch.background, sh_degree_of(state.params)
    rendering = state.engine.look(state.step, batch.camera, degree, background)
    weight = state.config.optim.lambda_dssim
    _, losses = photometric_gradients(
        rendering.colors[0], batch.photo, weight, background, batch.mask, with_errors=False
    )
    return float(losses["loss"])


def say_coverage(state: TrainingState, batch: Batch, name: str) -> None:
    """Says early, and once, that nothing is seen of a view, rather than train a black image for an hour."""
    seen = state.engine.look(state.step, batch.camera, state.sh_degree(state.step + 1), batch.background)
    coverage = float((seen.alphas > 0).float().mean())
    log.info("first view: Gaussians cover %.0f %% of %s", 100 * coverage, name)
    if coverage == 0.0:
        log.warning(
            "nothing is visible from %s: are the poses world-to-camera in OpenCV axes, do the points belong to these "
            "cameras, is model.near_plane too large?", name,
        )  # fmt: skip
