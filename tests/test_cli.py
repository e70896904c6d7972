"""Command lines: the frozen flags, what each sets, which wins, and how mistakes are told."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scripts_as_modules import imported_script

from distwar_gs import cli
from distwar_gs.cli import render_args, run_cli, train_config
from distwar_gs.config import PRESETS, Config, ConfigError, as_values, config_of, save_config, with_values
from distwar_gs.formats.export import save_ply
from distwar_gs.system import command_line
from distwar_gs.system.devices import resolve_device
from distwar_gs.viewing.render_args import RenderArgs, render_config
from distwar_gs.viewing.viewer import ViewerArgs, viewer_args, viewer_parser

ROOT = Path(__file__).parents[1]


def changed(argv: str, scene: str = "-s data/room") -> dict:
    """The keys that the arguments change, beside the two folders."""
    values, defaults = as_values(train_config(f"{scene} {argv}".split())), as_values(config_of({}))
    different = {key: value for key, value in values.items() if value != defaults[key]}
    return {key: value for key, value in different.items() if key not in ("data.source_path", "train.result_dir")}


def listed(program: str, parser) -> list[str]:
    """One line a flag: all its spellings and what it sets."""
    return [
        f"{program} {' '.join(action.option_strings) or '(positional)'} -> {action.dest}" for action in parser._actions
    ]


def test_the_flags_are_frozen():
    """A new flag is a decision, not an accident: first --set, then an issue, then this list."""
    lines = listed("train.py", cli.train_parser()) + listed("render.py", cli.render_parser())
    lines += listed("viewer", viewer_parser())
    with imported_script("clean") as clean:
        lines += listed("clean.py", clean.clean_parser())
    assert lines == (Path(__file__).parent / "cli_options.txt").read_text().splitlines()


def steps(length: int) -> dict:
    """What differs from the defaults in a run of so many steps."""
    return {key: value for key, value in as_values(config_of({"train.iterations": length})).items()
            if value != as_values(config_of({}))[key]}  # fmt: skip


def strategy(name: str) -> dict:
    """What differs from the defaults with a strategy."""
    return {key: value for key, value in as_values(config_of({"densification.strategy": name})).items()
            if value != as_values(config_of({}))[key]}  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("", {}),
        ("-i images_4", {"data.images": "images_4"}),
        ("--images images_4", {"data.images": "images_4"}),
        ("-r 4", {"data.resolution": 4}),
        ("-r -1", {}),
        ("--data_factor 2", {"data.resolution": 2}),
        ("--resolution 2", {"data.resolution": 2}),
        ("--test_every 10", {"data.test_every": 10}),
        ("--test_list held.txt", {"data.test_list": "held.txt"}),
        ("--test-list none", {"data.test_list": "none"}),
        ("--invert_masks", {"data.invert_masks": True}),
        ("--eval", {}),
        ("--no_eval", {"data.eval": False}),
        ("--iterations 5", steps(5)),
        ("--max_steps=5", steps(5)),
        ("--max-steps=5", steps(5)),
        ("--quality draft", steps(10_000) | {"train.quality": "draft"}),
        ("--quality standard", {}),
        ("--seconds 20", {"train.seconds": 20.0, "train.test_iterations": (), "train.save_iterations": ()}),
        ("--test_iterations 1 2", {"train.test_iterations": (1, 2)}),
        ("--eval_steps", {"train.test_iterations": ()}),
        ("--test_iterations -1", {"train.test_iterations": (-1,)}),
        ("--save_iterations 3", {"train.save_iterations": (3,)}),
        ("--save-steps 3", {"train.save_iterations": (3,)}),
        ("--checkpoint_iterations 4 5", {"train.checkpoint_iterations": (4, 5)}),
        ("--resume", {"train.resume": "auto"}),
        ("--resume auto --quiet", {"train.resume": "auto", "log.quiet": True}),
        ("--start_checkpoint a-b.pt", {"train.resume": "a-b.pt"}),
        ("-w", {"data.background": "white"}),
        ("--white_background", {"data.background": "white"}),
        ("--random_background", {"data.background": "random"}),
        ("--sh_degree 1", {"model.sh_degree": 1}),
        ("--strategy guided", {}),
        ("--strategy adc", strategy("adc")),
        ("--strategy default", strategy("adc")),
        ("--set densification.strategy=default", strategy("adc")),
        ("--antialiased", {}),
        ("--set model.antialiased=false", {"model.antialiased": False}),
        ("--strategy absgrad", strategy("adc") | {"densification.strategy": "absgrad"} | PRESETS["absgrad"]),
        ("--strategy mcmc", strategy("mcmc")),
        (f"--config {ROOT}/configs/strategies/mcmc.yaml", strategy("mcmc")),
        (
            "--strategy absgrad --set densification.grad_threshold=2e-4",
            strategy("adc") | {"densification.strategy": "absgrad"},
        ),
        ("--cap_max 1000", {"densification.cap_max": 1000}),
        ("--export_origin local", {"train.export_origin": "local"}),
        ("--export-origin=input", {"train.export_origin": "input"}),
        ("--reduction atomic", {"reduction.strategy": "atomic"}),
        ("--balance_threshold 16", {"reduction.balance_threshold": 16}),
        ("--device cpu", {"train.device": "cpu"}),
        ("--viewer", {"log.viewer": 7007}),
        ("--viewer 0 --viewer-host 0.0.0.0", {"log.viewer": 0, "log.viewer_host": "0.0.0.0"}),
        ("--seed 7", {"train.seed": 7}),
        ("--set optim.means_lr=1e-3 log.every=5", {"optim.means_lr": 1e-3, "log.every": 5}),
        ("--set optim.means_lr=1e-3 --set log.every=5", {"optim.means_lr": 1e-3, "log.every": 5}),
    ],
)
def test_train_flags(argv, expected):
    assert changed(argv) == expected


@pytest.mark.parametrize("flag", ["-s", "--source_path", "--data_dir", "--source-path"])
def test_scene_folder_names_the_result(flag):
    config = train_config([flag, "data/room/"])
    assert (config.data.source_path, config.train.result_dir) == ("data/room/", str(Path("output/room")))


def test_a_transforms_file_is_named_after_its_folder():
    assert train_config(["-s", "data/room/transforms.json"]).train.result_dir == str(Path("output/room"))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("room/sparse/0", "room"), ("room/sparse", "room"), ("room/colmap/sparse/0", "room"), ("room/sparse/7", "room"),
        ("room/model", "model"), ("flat", "flat"), ("colmap", "colmap"), ("24", "24"), ("room\\sparse\\0", "room"),
        ("room/colmap", "room"), ("room", "room"),
    ],
)  # fmt: skip
def test_a_run_is_named_after_the_scene_of_a_model(tmp_path, monkeypatch, source, name):
    for model in ("room/sparse/0", "room/colmap/sparse/0", "room/sparse/7", "room/model", "flat", "colmap", "24"):
        (tmp_path / model).mkdir(parents=True)
        (tmp_path / model / "images.bin").touch()
    for scene in ("flat", "colmap", "24"):
        (tmp_path / scene / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    assert train_config(["-s", source]).train.result_dir == str(Path("output") / name)


@pytest.mark.parametrize("flag", ["-m", "--model_path", "--result_dir", "--result-dir"])
def test_result_folder(flag):
    assert train_config(["-s", "x", flag, "my-run"]).train.result_dir == "my-run"


def test_the_working_directory_as_scene_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "garden").mkdir()
    monkeypatch.chdir(tmp_path / "garden")
    assert train_config(["-s", "."]).train.result_dir == str(Path("output/garden"))


def test_precedence_defaults_file_flags_set(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("data: {source_path: a, eval: false}\ntrain: {seed: 1, iterations: 1}\nlog: {every: 1}\n")
    argv = f"--config {file} --iterations 2 --seed 2 --set train.seed=3".split()
    config = train_config(argv)
    assert (config.log.every, config.train.iterations, config.train.seed) == (1, 2, 3)
    assert config.data.eval is False, "a flag that was not typed must not undo the file"
    assert train_config([*argv, "--eval"]).data.eval is True


def test_a_scenes_config_with_a_strategy():
    """configs/default.yaml, its base, repeats every default: a strategy's win over those, not over the scene's own."""
    config = train_config(["--config", str(ROOT / "configs/mipnerf360/garden.yaml"), "--strategy", "mcmc"])
    assert config.densification.stop == 25_000 and config.optim.adam == "lazy" and config.data.images == "images_4"
    config = train_config(["--config", str(ROOT / "configs/demo.yaml"), "--strategy", "mcmc", "--cap_max", "9"])
    assert (config.densification.stop, config.densification.cap_max, config.model.init_opacity) == (1000, 9, 0.5)


def test_no_scene():
    with pytest.raises(ConfigError, match="give its folder with -s"):
        train_config([])


def test_values_out_of_range():
    with pytest.raises(ConfigError, match="reduction.balance_threshold is 33: it must be between 0 and 32"):
        train_config(["-s", "x", "--balance_threshold", "33"])


USAGE_MISTAKES = [
    (train_config, "-s x --iteration 5", "unknown argument --iteration; did you mean --iterations?"),
    (train_config, "-s x --iter 5", "unknown argument --iter"),
    (train_config, "garden.yaml", "unknown argument garden.yaml"),
    (train_config, "-s x --reduction swb", "argument --reduction: invalid choice: 'swb'"),
    (train_config, "-s x --strategy adcs", "argument --strategy: invalid choice: 'adcs'"),
    (train_config, "-s x --quality fast", "argument --quality: invalid choice: 'fast'"),
    (train_config, "-s x --quality best --iterations 5", "not allowed with"),
    (train_config, "-s x --seconds 5 --iterations 5", "not allowed with"),
    (train_config, "-s x --seconds soon", "invalid float value: 'soon'"),
    (train_config, "-s x --iterations many", "invalid int value: 'many'"),
    (train_config, "-s", "expected one argument"),
    (train_config, "-s x -w --random_background", "not allowed with"),
    (render_args, "", "give one model to render"),
    (render_args, "a -m b", "give one model to render"),
    (render_args, "a --frames 0", "--frames and --fps must be positive"),
    (render_args, "a --frames -7", "--frames and --fps must be positive"),
    (render_args, f"a --frames {10**7}", "--frames is 10000000: it must be between 1 and 1000000"),
    (render_args, f"a --frames {'9' * 5000}", "argument --frames: invalid int value"),
    (render_args, "a --frames nan", "argument --frames: invalid int value: 'nan'"),
    (render_args, "a --fps 0", "--frames and --fps must be positive"),
    (render_args, "a --fps=-inf", "--frames and --fps must be positive"),
    (render_args, "a --fps nan", "--fps is nan: it must be between 0.01 and 1000"),
    (render_args, "a --fps inf", "--fps is inf: it must be between 0.01 and 1000"),
    (render_args, "a --fps 1e400", "--fps is inf: it must be between 0.01 and 1000"),
    (render_args, "a --fps 1e-300", "--fps is 1e-300: it must be between 0.01 and 1000"),
    (render_args, "a --path spiral", "argument --path: invalid choice: 'spiral'"),
    (train_config, "-s x --export_origin near", "argument --export_origin: invalid choice: 'near'"),
    (render_args, "a.ply --iteration 5", "--iteration picks a model of a run folder"),
    (train_config, "-s x --viewer here", "argument --viewer: invalid int value: 'here'"),
    (viewer_args, "", "the following arguments are required: MODEL"),
    (viewer_args, "run --port 70000", "--port is 70000: it must be between 0 and 65535"),
    (viewer_args, "a.ply --iteration 5", "--iteration picks a model of a run folder"),
    (viewer_args, "run --hots x", "unknown argument --hots; did you mean --host?"),
]


@pytest.mark.parametrize(("program", "argv", "message"), USAGE_MISTAKES)
def test_usage_mistakes_are_one_line_and_code_2(program, argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_cli(program, argv.split())
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert out == ""


def test_help_explains_the_flags(capsys):
    with pytest.raises(SystemExit) as stopped:
        train_config(["--help"])
    assert stopped.value.code == 0
    assert "Training steps, one image each." in capsys.readouterr().out


def test_render_flags():
    assert render_args(["run"]) == RenderArgs(model=Path("run"))
    assert render_args(["--path", "ellipse", "run", "--depth"]).model == Path("run")
    assert render_args(["-m", "run"]) == render_args(["--model-path", "run"]) == RenderArgs(model=Path("run"))
    argv = "run -s data -i im -r 2 --iteration 7 --path ellipse --frames 9 --fps 12.5 --skip_test --train --depth"
    rest = "--out o --device cpu -w --config c.yaml --test_list t"
    assert render_args(f"{argv} {rest}".split()) == RenderArgs(
        model=Path("run"),
        config=Path("c.yaml"),
        source_path="data",
        images="im",
        resolution=2,
        test_list="t",
        background="white",
        iteration=7,
        path="ellipse",
        frames=9,
        fps=12.5,
        skip_test=True,
        train=True,
        depth=True,
        out=Path("o"),
        device="cpu",
    )


def test_viewer_flags():
    assert viewer_args(["run"]) == ViewerArgs(RenderArgs(model=Path("run")), 7007, "127.0.0.1")
    argv = "run -s data -i im -r 2 --iteration 7 --device cpu -w --config c.yaml --test_list t --port 0 --host ::1"
    model = RenderArgs(
        model=Path("run"), config=Path("c.yaml"), source_path="data", images="im", resolution=2, test_list="t",
        background="white", iteration=7, device="cpu",
    )  # fmt: skip
    assert viewer_args(argv.split()) == ViewerArgs(model, 0, "::1")


@pytest.mark.parametrize("model", ["run", "run/point_cloud/iteration_5/point_cloud.ply"])
def test_render_config_is_that_of_the_run_with_the_flags_over_it(tmp_path, model):
    saved = with_values(Config(), {"data.source_path": "a", "model.sh_degree": 1, "train.device": "cuda"})
    save_config(saved, tmp_path / "run/config.yaml")
    config = render_config(render_args([str(tmp_path / model), "-r", "2", "-w"]))
    expected = {"data.resolution": 2, "data.background": "white", "train.device": "auto"}
    assert as_values(config) == as_values(saved) | expected


def test_render_config_from_a_file(tmp_path):
    save_config(with_values(Config(), {"model.sh_degree": 1}), tmp_path / "run/config.yaml")
    save_config(with_values(Config(), {"model.sh_degree": 2}), tmp_path / "other.yaml")
    config = render_config(render_args([str(tmp_path / "run"), "--config", str(tmp_path / "other.yaml")]))
    assert config.model.sh_degree == 2


@pytest.mark.parametrize("antialiased", [True, False])
def test_render_config_of_a_ply_that_stands_alone(tmp_path, antialiased):
    shapes = {"means": (1, 3), "quats": (1, 4), "scales": (1, 3), "opacities": (1,), "sh0": (1, 1, 3), "shN": (1, 0, 3)}
    params = {key: torch.zeros(shape) for key, shape in shapes.items()}
    save_ply(tmp_path / "a.ply", params, antialiased=antialiased)
    config = render_config(render_args([str(tmp_path / "a.ply"), "-s", "data/room"]))
    assert config == with_values(Config(), {"model.antialiased": antialiased, "data.source_path": "data/room"})


def test_render_config_of_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="no config.yaml in it"):
        render_config(RenderArgs(model=tmp_path))


def run(main, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        run_cli(main, ["a"])
    return stopped.value.code, capsys.readouterr().err


def fail(error: BaseException):
    def main(argv: list[str]) -> int:
        raise error

    return main


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_run_cli_exits_with_the_code_of_main(returned, code, capsys):
    assert run(lambda argv: returned if argv == ["a"] else 99, capsys) == (code, "")


def test_run_cli_takes_the_arguments_of_the_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "x", "y"])
    with pytest.raises(SystemExit) as stopped:
        run_cli(len)
    assert stopped.value.code == 2


@pytest.mark.parametrize(("module", "name"), command_line.USER_ERRORS)
def test_user_errors_are_one_line(module, name, capsys):
    error = getattr(importlib.import_module(module), name)
    assert run(fail(error("x.yaml: broken")), capsys) == (1, "error: x.yaml: broken\n")


def test_user_errors_of_modules_that_appear_later(monkeypatch, capsys):
    module = ModuleType("distwar_datasets.errors")
    module.DataError = type("DataError", (ValueError,), {})
    monkeypatch.setitem(sys.modules, "distwar_datasets.errors", module)
    assert run(fail(module.DataError("no images")), capsys) == (1, "error: no images\n")


def test_errors_of_the_disk_name_the_file(tmp_path, capsys):
    def main(argv: list[str]) -> None:
        (tmp_path / "none").read_text()

    assert run(main, capsys) == (1, f"error: {tmp_path / 'none'}: No such file or directory\n")


@pytest.mark.parametrize("name", ["cameras.json", "./ellipse", "a.npy", "a/b", "poses"])
def test_paths_that_look_like_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poses").write_text("")
    assert render_args(["run", "--path", name]).path == name


def test_interrupt(capsys):
    assert run(fail(KeyboardInterrupt()), capsys) == (130, "error: interrupted\n")


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_cli(fail(ZeroDivisionError()), [])


def test_a_mistyped_flag_does_not_wait_for_torch():
    code = (
        "import sys\nfrom distwar_gs.cli import run_cli, train_config\n"
        "try:\n    run_cli(train_config, ['-s', 'x', '--set', 'a.b=1'])\n"
        "except SystemExit as stop:\n    sys.exit(f'code {stop.code}, torch {\"torch\" in sys.modules}')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "code 1, torch False"


def test_resolve_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [resolve_device(name).type for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [resolve_device(name).type for name in ("auto", "cpu")] == ["cpu", "cpu"]


@pytest.mark.parametrize(("built_for", "words"), [(None, "is built without CUDA"), ("13.0", "torch sees no CUDA GPU")])
def test_resolve_device_without_a_gpu(monkeypatch, built_for, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    with pytest.raises(ConfigError, match=f"device cuda was asked for but .*{words}; remedy: --device cpu, or "):
        resolve_device("cuda")
