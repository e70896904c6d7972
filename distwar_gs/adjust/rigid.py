"""A small motion of a camera in the world: six numbers, and gradients in them by hand.

The first three turn the camera about its own centre: an axis in the world's frame, times 2 tan(angle / 2), which for
small angles is the angle in radians (Cayley's map: rational, so that it costs no sine, and is smooth at 0). The last
three shift the centre, in the world's frame.
"""

from functools import cache

import torch
from torch import Tensor

_CROSS = (
    (0, 0, 0), (0, 0, -1), (0, 1, 0),
    (0, 0, 1), (0, 0, 0), (-1, 0, 0),
    (0, -1, 0), (1, 0, 0), (0, 0, 0),
)  # fmt: skip


@cache
def _cross(dtype: torch.dtype, device: torch.device) -> Tensor:
    """[9, 3]: times a vector w it is the matrix of v -> w x v, rows one after another. Kept: no copy in a step."""
    return torch.tensor(_CROSS, dtype=dtype, device=device)


def _cross_matrix(vector: Tensor) -> Tensor:
    return (_cross(vector.dtype, vector.device) @ vector).reshape(3, 3)


def turned(turn: Tensor) -> Tensor:
    """The rotation matrix [3, 3] of an axis times 2 tan(angle / 2), [3]."""
    cross = _cross_matrix(turn)
    factor = 1.0 / (1.0 + 0.25 * turn.dot(turn))
    return torch.eye(3, dtype=turn.dtype, device=turn.device) + factor * (cross + 0.5 * (cross @ cross))


def moved(viewmat: Tensor, center: Tensor, motion: Tensor) -> Tensor:
    """`viewmat` [4, 4] of a camera at `center` [3] after a motion [6]: turned about its centre, and shifted."""
    return viewmat @ _before(turned(motion[:3]), center, motion[3:])


def _before(turn: Tensor, center: Tensor, shift: Tensor) -> Tensor:
    """[4, 4]: where a point of the world has to go for the old camera to see it as the new one does."""
    back = turn.T
    matrix = torch.zeros(4, 4, dtype=turn.dtype, device=turn.device)
    matrix[:3, :3], matrix[:3, 3] = back, center - back @ (center + shift)
    matrix[3, 3].fill_(1.0)
    return matrix


def motion_gradient(viewmat: Tensor, center: Tensor, motion: Tensor, v_viewmat: Tensor) -> Tensor:
    """dL/d(motion) [6] from dL/d(what `moved` returned) [4, 4]."""
    turn, shift = motion[:3], motion[3:]
    cross = _cross_matrix(turn)
    steps, factor = cross + 0.5 * (cross @ cross), 1.0 / (1.0 + 0.25 * turn.dot(turn))
    rotation = torch.eye(3, dtype=turn.dtype, device=turn.device) + factor * steps
    v_before = viewmat[:3, :3].T @ v_viewmat[:3]  # [3, 4]
    v_offset = v_before[:, 3]
    v_rotation = v_before[:, :3].T - torch.outer(center + shift, v_offset)
    v_cross = factor * (v_rotation + 0.5 * (cross.T @ v_rotation + v_rotation @ cross.T))
    v_factor = (v_rotation * steps).sum()
    v_turn = _cross(turn.dtype, turn.device).T @ v_cross.reshape(9) - (0.5 * factor * factor * v_factor) * turn
    return torch.cat([v_turn, -(rotation @ v_offset)])
