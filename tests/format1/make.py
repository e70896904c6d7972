"""Made the checkpoints of format 1 beside it (adc.pt, mcmc.pt), and what a run makes of each in 12 steps more.

    python tests/format1/make.py ROOT SCENE OUT

ROOT is the repository at e612563, the last commit that writes this format; SCENE the demo scene of tests/conftest.py,
relative to the current folder, as OUT. Later programs write a newer format: the files stay as they are.
"""

import sys
from pathlib import Path

root, scene, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), Path(sys.argv[3])
sys.path[:0] = [str(root), str(root / "tests")]

import torch  # noqa: E402
from demo_runs import demo_config  # noqa: E402

from distwar_gs.training.trainer import Trainer  # noqa: E402

CHANGES = {
    "densification.start": 2, "densification.every": 5, "densification.stop": 40, "densification.cap_max": 150,
    "densification.opacity_reset_every": 18, "densification.grad_threshold": 1e-4, "densification.prune_scale": 10.0,
    "model.sh_degree": 1, "model.sh_degree_interval": 6, "model.init": "random", "model.init_points": 100,
    "data.background": "random", "train.iterations": 12,
}  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    for strategy in ("adc", "mcmc"):
        changes = CHANGES | {"densification.strategy": strategy}
        assert Trainer(demo_config(scene, out / strategy, changes)).run() == 0
        saved = out / strategy / "checkpoints/step_12.pt"
        saved.rename(out / f"{strategy}.pt")
        changes |= {"train.resume": str(out / f"{strategy}.pt"), "train.iterations": 24}
        run = Trainer(demo_config(scene, out / f"{strategy}_on", changes))
        assert run.run() == 0
        torch.save({name: param.detach() for name, param in run.params.items()}, out / f"{strategy}_24.pt")
        print(strategy, len(run.params["means"]), (out / f"{strategy}.pt").stat().st_size)
