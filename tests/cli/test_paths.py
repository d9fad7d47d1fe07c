"""Any file name works in every command."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from sr_train.config.compose import compose_command
from sr_train.config.folders import conf_folder
from sr_train.config.help import keys_of
from sr_train.config.paths import PATH_KEYS
from sr_train.config.plan import plan
from sr_train.console import ConfigError, UsageError
from sr_train.data.images import read_image, write_image
from sr_train.data.store.reader import Store
from sr_train.models.edsr import EDSR
from sr_train.runs.slurm_job import SlurmJob
from sr_train.weights.file import Weights, save_weights
from tests.helpers import EDSR_MODEL

NAMES = [
    "写真", "my photos", " lead", "trail ", "a(1)", "(b)", "choice(a)", "[c]", "[c", "c]", "{d}", "{d", "{2: a}", "a,b", "x=1",
    "#1", "it's", "'q'", 'say "x"', '"q"', "~home", "a;b", "!bang", "a&b", "null", "true", "1e3", "011", "12", "é", "a\\b",
    "end\\", "${x}", "$HOME", "a:b", "%d", "*", "a|b", "@a", "+a", "-a", "😀", "`x`", "X{scale}", "{stem}", "bicubic,a",
]  # fmt: skip

COMMANDS = [name for name in PATH_KEYS if name != "train"]

_NO_PATHS = {  # keys whose comments mention a file or a folder, but whose values are none
    "train": {
        "stages",
        "folder",
        "name",
        "profile",
        "report",
        "validate.metrics",
        "requeue",
        "checkpoint.keep",
        "validate.pictures",
    },
    "evaluate": {"scale", "save", "padding", "allow", "metrics"},
    "report": {"watch", "every"},
    "interp": {"stages", "alpha", "allow"},
    "prepare": {"skip_bad", "verify", "scales", "dataset"},
    "upscale": {"allow", "format", "scale", "skip_existing"},
    "convert": {"overwrite", "allow", "scale", "format", "card"},
}


def _concrete(key: str) -> str:
    """Return a key of the table with a name in place of its star."""
    return {"paths.*": "paths.data"}.get(key, key.replace("*", "mine"))


def _value(config: object, key: str) -> object:
    for part in key.split("."):
        assert isinstance(config, dict)
        config = config[part]
    return config


@pytest.mark.parametrize("command", COMMANDS)
def test_every_name_arrives_as_typed_under_every_key_of(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = [_concrete(k) for k in PATH_KEYS[command] if "sets" not in k and k != "paths.*"]
    given = [f"+{k}" if k.startswith("paths") else k for k in keys]
    for name in NAMES:
        (tmp_path / name).touch()
        composed = compose_command(command, [f"{key}={name}" for key in given])
        for key in keys:
            optional = PATH_KEYS[command].get(key)
            expected = None if name == "null" and optional and optional.written and optional.null else name
            assert _value(composed, key) == expected, f"{key}={name}"


def test_every_name_arrives_as_typed_in_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        if "${" in name or name == "null":  # an interpolation, as in YAML files; the default
            continue
        (tmp_path / name).touch()
        typed = ["init.weights", "main.validate.lpips", "data.stage", "paths.data", "paths.runs", "name"]
        composed = plan([f"{key}={name}" for key in typed] + [f"sets.mine.hr={name}"])
        config = composed.stages[0].config
        assert composed.name == name
        assert [_value(dict(config), k.removeprefix("main.")) for k in typed] == [name] * len(typed)
        assert config["sets"]["mine"]["hr"] == name
        assert composed.folder == Path(name) / name


@pytest.mark.parametrize("command", PATH_KEYS)
def test_the_table_contains_every_key_that_is_a_path(command):
    words = ("file", "folder", "store ", "path of")
    paths = {
        key
        for key, _, comment in keys_of(conf_folder() / f"{command}.yaml")
        if any(word in f"{comment} ".lower() for word in words) and not key.startswith(("hydra", "defaults"))
    }
    assert paths - _NO_PATHS[command] <= set(PATH_KEYS[command])


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)


def test_images_of_every_name_are_upscaled(image, invoke, tmp_path):
    for name in NAMES:
        write_image(tmp_path / f"{name}.png", image)
        done = invoke(
            "sr-upscale", "weights=bicubic", "scale=2", f"input={name}.png", f"output=out/{name}.png", "device=cpu"
        )
        assert done.returncode == 0, done.stderr
        assert read_image(tmp_path / "out" / f"{name}.png").shape == (32, 40, 3)


def test_folders_of_every_name_are_stored_and_scored(image, invoke, tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / f"{name}.png", image)
        done = invoke("sr-prepare", f"images={name}", f"store={name}.lmdb", "scales=[2]", "workers=1")
        assert done.returncode == 0, done.stderr
        assert Store(tmp_path / f"{name}.lmdb").keys() == [name]
        paths = (f"hr={name}", f"lr={name}.lmdb", f"out=scores {name}")
        done = invoke("sr-eval", "weights=bicubic", "scale=2", *paths, "protocols=[rgb]", "metrics=[psnr]")
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / f"scores {name}" / "metrics.json").read_text())


def test_weights_of_every_name_are_converted_and_mixed(invoke, tmp_path):
    network = EDSR(**{k: v for k, v in EDSR_MODEL.items() if k != "_target_"})
    weights = Weights(EDSR_MODEL, network.state_dict(), {})
    for name in NAMES:
        for file in (f"{name}.safetensors", "other.safetensors"):
            save_weights(tmp_path / file, weights)
        done = invoke("sr-convert", f"weights={name}.safetensors", f"out=out/{name}.safetensors")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out" / f"{name}.safetensors").exists()
        first = f"'{name}.safetensors'" if "," in name else f"{name}.safetensors"
        done = invoke("sr-interp", f"weights=[{first},other.safetensors]", "alpha=0.5", f"out=mixed {name}")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"mixed {name}" / "alpha_0.50.safetensors").exists()


def test_the_value_of_a_path_key_is_read_in_order(tmp_path, monkeypatch):
    def read(argument, command="evaluate"):
        key = argument.partition("=")[0]
        return compose_command(command, [argument, *(["weights=w", "input=i"] if command == "upscale" else [])])[key]

    monkeypatch.chdir(tmp_path)
    assert read("weights=[写 (1).pth,bicubic,'a,b.pth',1e3]") == ["写 (1).pth", "bicubic", "a,b.pth", "1e3"]
    assert read("lr={2: 'a', 3: b}") == {2: "a", 3: "b"}
    assert read("lr=LR (1)/{stem}_x{scale}") == "LR (1)/{stem}_x{scale}"
    assert read("hr=null") is None
    assert read('hr="my photos"') == "my photos"
    assert read("clips=true") is True
    assert read("clips=[000,100]") == ["000", "100"]
    for name in ("[a,b]", "null", "true", '"my photos"', "{2: a}"):
        (tmp_path / name).touch()
        assert read(f"weights={name}") == name  # a path that exists as typed comes first
    for name in ("[x]", "'x'", "{x}", "x,y"):
        assert read(f"out={name}") == name
    assert read("output=null", "upscale") == "null"
    assert read("out=null") is None
    for name in ("写", "b"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"weights=写,b: give a list, 'weights=\[写,b\]'"):
        read("weights=写,b")


@pytest.mark.parametrize(
    ("typed", "paste"),
    [
        ("data.train=[{hr: 写真 (1), lr: it's}]", 'data.train=[{hr: "写真 (1)", lr: "it\'s"}]'),
        ("data.train=写真", 'data.train=[{hr: "写真"}]'),
        ("data.train=my photos", "data.train=[{hr: my photos}]"),
        ("sets.mine=a (1)", None),
    ],
)
def test_a_message_shows_the_argument_that_can_be_pasted(typed, paste):
    with pytest.raises(ConfigError) as caught:
        plan([typed])
    text = str(caught.value)
    if paste is not None:
        assert shlex.quote(paste) in text
        assert plan([paste])


def test_a_job_file_of_slurm_keeps_names(tmp_path):
    name, log = "a b#c'd\"e\\", "r n/%j.log"
    text = SlurmJob(gpus_per_node=0).text(name, [f"name={name}"], 0, log)
    options = [line for line in text.splitlines() if line.startswith("#SBATCH --")]
    assert shlex.split(options[0].removeprefix("#SBATCH ")) == [f"--job-name={name}"]
    assert shlex.split(options[1].removeprefix("#SBATCH ")) == [f"--output={log}"]
    assert f"name={name}" in shlex.split(text.splitlines()[-1])


@pytest.mark.slow
def test_a_run_of_any_name_trains_and_continues(image, invoke, tmp_path):
    folder = "写真 (1), it's"
    (tmp_path / folder).mkdir()
    for i in range(2):
        write_image(tmp_path / folder / f"{i}.png", np.tile(image, (8, 8, 1)))
    sources = f'data.train=[{{hr: "{folder}"}}]'
    recipe = ("experiment=quickstart_edsr", "stage=x2", "trainer.max_steps=2", "model.blocks=1", "data.lr_patch=16")
    size = (
        "data.workers=0",
        "trainer.accelerator=cpu",
        "data=base",
        "validate.every=2",
        "logger=[csv]",
        "curve=constant",
    )
    call = ("sr-train", *recipe, *size, sources, f"sets.mine.hr={folder}", "sets=[]")
    done = invoke(*call, f"name={folder}/n", f"paths.runs=r {folder}")
    assert done.returncode == 0, done.stderr
    weights = Path(f"r {folder}") / folder / "n" / "x2"
    assert (tmp_path / weights / "weights.safetensors").exists()
    done = invoke(*call, "name=next [2]", f"init.weights={weights}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "next [2]" / "x2" / "weights.safetensors").exists()


def test_slurm_refuses_a_folder_that_its_log_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "a\\b"
    with pytest.raises(UsageError, match="contains a backslash; give another name=NAME"):
        SlurmJob(gpus_per_node=0).submit(plan([f"name={name}"]), [f"name={name}"])
    assert not list(tmp_path.iterdir())
