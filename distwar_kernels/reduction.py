"""Where the gradient sums of the blend's backward pass are made: DISTWAR's choice (arXiv 2401.05345)."""

from dataclasses import dataclass

from distwar_kernels.constants import WARP_SIZE

STRATEGIES = ("gsplat", "atomic", "sw_s", "sw_b", "sw_t", "auto")
DEFAULT_THRESHOLDS = {"sw_s": 8, "sw_b": 8, "sw_t": 1}
"""The strategies that a balance threshold splits, and where they split if nothing is said: the best on an H200 for
``sw_b`` and ``sw_t`` (docs/performance.md; ``sw_s`` is some 10 % faster at 16)."""


@dataclass(frozen=True)
class Reduction:
    """A reduction strategy and its balance threshold.

    strategy:
        ``gsplat``  gsplat's own forward and backward, the reference (CUDA only)
        ``atomic``  every active lane adds to memory: the paper's baseline
        ``sw_s``    DISTWAR serialised: a leader collects the lanes that share an address, one after another
        ``sw_b``    DISTWAR butterfly: all 32 lanes exchange and sum, idle lanes contribute zero
        ``sw_t``    transposed: 16 visits of a warp are laid side by side in shared memory, then a lane sums half a
                    visit; for the blend with one to four channels (with more it is ``sw_b``)
        ``auto``    whichever of the kernels' strategies and thresholds measures fastest on this GPU and this scene
                    (``tuner.py``); the threshold given here does not matter
    balance_threshold:
        0..32, or None for the strategy's default. A warp with at least this many active lanes sums in the SM (``sw_s``,
        ``sw_b``, ``sw_t``); one with fewer sends its lanes' values straight to the atomic units of the L2. 0 and 1
        reduce always.

    The CPU backend gives the same gradients under every strategy: it sums a tile's pixels in registers and
    adds tile sums in a fixed order, so it has no atomics to save.

    Raises ValueError for an unknown strategy or a threshold outside 0..32.
    """

    strategy: str = "sw_t"
    balance_threshold: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"unknown reduction strategy {self.strategy!r}: choose one of {', '.join(STRATEGIES)}")
        if self.balance_threshold is None:
            object.__setattr__(self, "balance_threshold", DEFAULT_THRESHOLDS.get(self.strategy, 1))
        if not 0 <= self.threshold <= WARP_SIZE:
            raise ValueError(
                f"balance threshold {self.balance_threshold} is outside 0..{WARP_SIZE} (active lanes of a warp)"
            )

    @property
    def threshold(self) -> int:
        """The balance threshold, which is a number once this is made."""
        return int(self.balance_threshold or 0)

    def __str__(self) -> str:
        """``sw_b@8``; the threshold only where it matters."""
        return f"{self.strategy}@{self.balance_threshold}" if self.strategy in DEFAULT_THRESHOLDS else self.strategy
