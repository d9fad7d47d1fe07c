"""The commands of the pages are run, in their order, in one folder; those that need downloads are composed."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from omegaconf import OmegaConf

import sr_train
from sr_train.config.check import check_values, known_names
from sr_train.config.compose import compose_command, parse
from sr_train.config.folders import conf_folder, groups, options_of
from sr_train.config.help import keys_of
from sr_train.config.plan import plan
from sr_train.console import ConfigError
from sr_train.data.degrade import reduce_image
from sr_train.data.images import read_image, write_image
from sr_train.data.toy import toy_files
from sr_train.metrics.protocol import get_protocols
from tests.data.known_trees import PACKINGS, pack

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ORDER = re.findall(r"^([\w-]+)$", (DOCS / "index.md").read_text(), re.MULTILINE)  # of the table of contents
PAGES = [ROOT / "README.md", DOCS / "index.md", *(DOCS / f"{name}.md" for name in ORDER)]
CONFIG = {
    "sr-train": "train", "sr-eval": "evaluate", "sr-prepare": "prepare", "sr-upscale": "upscale", "sr-interp": "interp",
    "sr-convert": "convert",
    "sr-report": "report",
}  # fmt: skip

COMPOSE = None  # composed and checked, not run
STEPS = [
    "trainer.accelerator=cpu",
    "trainer.precision=32",
    "trainer.max_steps=2",
    "data.workers=0",
    "data.batch=2",
    "data.lr_patch=16",
]
TRAIN = [*STEPS, "logger=csv", "record.every=1", "validate.pictures=1", "validate.crop=64", "sets.toy.hr=held_out"]
NET = ["model.channels=8", "model.blocks=1"]
SMALL = [*TRAIN, *NET, "data.train=[{hr: photos}]"]
RULES: list[tuple[str, list[str] | None]] = [  # the first that fits: what is typed behind the command
    (r"sr-train", []),
    (r"sr-train -m .*", COMPOSE),
    (r"sr-train .*trainer\.devices=4.*", COMPOSE),
    (r"sr-train experiment=(esrgan|edvr_m|edsr|edsr_baseline)_x\d.*", COMPOSE),  # DIV2K, REDS, other people's weights
    (r"sr-train experiment=quickstart .*profile=true", COMPOSE),  # that of quickstart_edsr is run
    (r"sr-train experiment=quickstart (name=pairing )?gan\.adversarial=.*", COMPOSE),  # that of own_gan is run
    (r"sr-train experiment=quickstart", [*SMALL, "model.growth=4", "stage=psnr"]),
    (r"sr-train experiment=quickstart .*", [*SMALL, "model.growth=4", "gan.task.discriminator.channels=4"]),
    (r"sr-train experiment=quickstart_edsr .*profile=true", [*SMALL, "stage=x2", "profile_steps=2", "sets=[]"]),
    (r"sr-train experiment=quickstart_edsr .*name=(wide|gradient) .*", COMPOSE),  # that of l1_gradient is run
    (r"sr-train experiment=shallow_x4 check=true", COMPOSE),  # that of model=shallow is run
    (r"sr-train experiment=quickstart_(edsr|mdsr)( .*)?", SMALL),
    (r"sr-train experiment=quickstart_video.*", COMPOSE),  # tests/test_experiments.py trains it a step
    (r"sr-train data=base .*", [*TRAIN, *NET]),
    (r"sr-train data=photos .*", [*TRAIN, *NET]),
    (r"sr-train data=div2k .*", [*TRAIN, *NET]),
    (r"sr-train model=windowed .*", [*TRAIN[:-1], "sets=[]", "data.train=[{hr: CLIPS}]"]),
    (r"sr-train model=shallow .*", [*TRAIN, "data.train=[{hr: photos}]"]),
    (r"sr-train experiment=shallow_x4.*", TRAIN),
    (r"sr-eval .*\.pth.*", COMPOSE),
    (r"sr-eval .*quickstart_video.*", COMPOSE),
    (r"sr-eval .*hr=toy_clips:chelsea.*", COMPOSE),  # 72 frames; the same protocols are run on CLIPS
    (r"sr-eval .*toy\].*", ["device=cpu", "sets.toy.hr=held_out"]),
    (r"sr-eval .*", ["device=cpu"]),
    (r"sr-prepare dataset=.*", ["workers=1", "partial=true"]),
    (r"sr-prepare .*", ["workers=1"]),
    (r"sr-upscale .*", ["device=cpu", "skip_existing=true"]),
    (r"sr-report .*", []),
    (r"sr-interp alpha=0\.8", []),
    (r"sr-interp run=runs/taste .*", ["rows=1", "crop=16", "device=cpu"]),
    (r"sr-convert weights=\S+\.pth .*", COMPOSE),
    (r"sr-convert .*\.(onnx|param)( .*)?", COMPOSE),  # optional packages
    (r"sr-convert .*", []),
    (r"make \w+|python -m pip install .*", COMPOSE),
]


class Item(NamedTuple):
    """A command of a page, or a file that the page shows."""

    page: Path
    line: int
    text: str
    file: str = ""  #: the name of a file
    shown: tuple[str, ...] = ()  #: what the page shows below a command

    def __str__(self) -> str:
        return f"{self.page.stem}:{self.line} {self.file or self.text[:60]}"


def blocks(page):
    """(first line, language, lines) of every fenced or indented block."""
    fence, start, held = None, 0, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if fence is not None:
            if line.startswith("```"):
                yield start, fence, held
                fence, held = None, []
            else:
                held.append(line)
        elif line.startswith("```"):
            fence, start, held = line[3:], number + 1, []
        elif line.startswith("    "):
            yield number, "", [line[4:]]
    assert fence is None, f"{page}: a block is not closed"


def items(page):
    """The commands and files of a page, in order."""
    lines = page.read_text().splitlines()
    for start, language, block in blocks(page):
        if language in ("python", "yaml"):
            before = " ".join(lines[max(0, start - 6) : start - 1])
            named = re.findall(r"\b[Ii]n `([\w./]+\.(?:py|yaml))`", before)
            assert named, f"{page}:{start}: no file is named for this block"
            yield Item(page, start, "\n".join(block) + "\n", named[-1])
        elif language in ("", "sh"):
            for number, line in enumerate(block, start):
                text = re.sub(r"\s+#( .*)?$", "", line.removeprefix("$ "))
                typed = line.startswith("$ ") or language or re.match(r"(sr-\w+|make)( \S+=\S*|$| -| \w+$)", text)
                if typed and text.strip():
                    yield Item(page, number, text, shown=tuple(part.strip() for part in lines[number : number + 4]))
        else:
            assert language == "text" or language.startswith("{"), f"{page}:{start}: what is {language}?"


def inline(page):
    """`code` in the text of a page, whole spans."""
    inside = {start + i for start, _, block in blocks(page) for i in range(len(block))}
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if number not in inside:
            yield from ((number, span) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", line))


def examples():
    """Commands at the head of the YAML: Examples and Command."""
    for path in sorted(conf_folder().rglob("*.yaml")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if match := re.match(r"#(?:   ?| Command:  )(sr-\w+ .*)", line):
                for text in match[1].split("; then "):
                    if text != f"sr-train experiment={path.stem}":  # tests/test_experiments.py trains it
                        yield Item(path, number, text.partition(" for ")[0])


def once(found):
    """The first of the items of each text: later pages repeat commands."""
    first = {}
    for item in found:
        first.setdefault(item.text, item)
    return list(first.values())


TYPED = once(item for page in PAGES for item in items(page))
SPOKEN = once(
    Item(page, number, span)
    for page in PAGES
    for number, span in inline(page)
    if span.split(" ")[0] in CONFIG and "=" in span and "..." not in span
)


def rule(item):
    """Return the arguments to run a command with, None to compose it only."""
    found = [added for pattern, added in RULES if re.fullmatch(pattern, item.text)]
    assert found, f"{item}: no rule of this test covers {item.text!r}"
    return found[0]


def composed(text):
    """Compose a command; raises ConfigError for keys and values that are not known."""
    program, *words = shlex.split(text)
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), text
    elif program == "sr-train":
        words = [re.sub(r"=interval\((.*)\)", r"=\1", w) for w in words if w != "-m" and not w.startswith("hydra")]
        swept = next((w for w in words if re.fullmatch(r"[\w.]+=[^\[{]+,.*", w)), None)
        for value in swept.partition("=")[2].split(",") if swept else [""]:
            plan([f"{w.partition('=')[0]}={value}" if w == swept else w for w in words])
    elif program in CONFIG:
        config = compose_command(CONFIG[program], words)
        get_protocols(config.get("protocols") or [config.get("protocol") or "y"])


# -- the folder in which everything is run -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tmp_path(tmp_path_factory):
    """One folder for all tests of this file: the commands of a page build on those before them."""
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def house(tmp_path, write_clips):
    """Make the files that the pages use: a few tiny photographs and clips in the folders of the pages."""
    sets = {
        "photos": "astronaut,coffee,rocket",
        "held_out": "chelsea",
        "写真": "rocket",
    }
    for folder, names in {**sets, "scans/HR": "rocket"}.items():
        (tmp_path / folder).mkdir(parents=True)
        for name, path in toy_files(names).items():
            write_image(tmp_path / folder / f"{name}.png", read_image(path)[60:124, 100:172])
    for folder in ("scans/LR", "it's"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "rocket.png", reduce_image(read_image(tmp_path / "scans/HR/rocket.png"), 2))
    (tmp_path / "infrared").mkdir()
    write_image(
        tmp_path / "infrared" / "cell.png",
        read_image(tmp_path / "scans/HR/rocket.png")[..., :1].astype(np.uint16) * 200,
    )
    (tmp_path / "HR_FOLDER").mkdir()
    write_image(tmp_path / "HR_FOLDER" / "chelsea.png", read_image(tmp_path / "held_out" / "chelsea.png"))
    (tmp_path / "Set5" / "image_SRF_2").mkdir(parents=True)
    for kind, image in (("HR", held := read_image(tmp_path / "held_out/chelsea.png")), ("LR", reduce_image(held, 2))):
        write_image(tmp_path / "Set5" / "image_SRF_2" / f"img_001_SRF_2_{kind}.png", image)
    write_clips(tmp_path / "CLIPS")
    for name in ("div2k as downloaded", "reds as downloaded"):
        pack(PACKINGS[name][2], tmp_path / "Downloads" / f"{name}.zip")
    return tmp_path


@pytest.fixture(scope="module")
def film(house):
    """walk.mp4."""
    av = pytest.importorskip("av")
    with av.open(str(house / "walk.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for t in range(4):
            pixels = np.full((32, 48, 3), 60 + 20 * t, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        file.mux(stream.encode(None))


# -- the tests ---------------------------------------------------------------------------------------------------


def test_every_program_in_the_pages_runs():
    typed = [item for item in TYPED if not item.file and item.text.startswith("sr-")]
    assert {item.text.split()[0] for item in typed if rule(item) is not COMPOSE} == set(CONFIG)


@pytest.mark.parametrize("item", TYPED, ids=str)
def test_a_page_works_as_typed(item, house, invoke, monkeypatch, capsys, request):
    monkeypatch.chdir(house)
    monkeypatch.syspath_prepend(str(house))
    if (house / "conf").exists():
        monkeypatch.setenv("SR_CONF", str(house / "conf"))
    program, *words = ["a file"] if item.file else shlex.split(item.text)
    if item.file:
        assert Path(item.file).parent.is_dir(), f"nobody made the folder of {item.file}"
        Path(item.file).write_text(item.text)
    elif program == "mkdir":
        for folder in words[1:]:
            Path(folder).mkdir(parents=True)
    elif program == "export":
        assert item.text == "export PYTHONPATH=$PWD SR_CONF=$PWD/conf"
    elif program == "python" and Path(words[0]).exists():
        runpy.run_path(words[0], run_name="__main__")
        assert re.search(r"\bx?\d\b.*'toy/y/psnr'", capsys.readouterr().out)
    elif "max_stesp" in item.text:
        with pytest.raises(ConfigError) as error:
            composed(item.text)
        assert all(line.removesuffix("...") in str(error.value) for line in item.shown[1:3])
    elif rule(item) is COMPOSE:
        composed(item.text)
    else:
        if "walk.mp4" in item.text:
            request.getfixturevalue("film")
        done = invoke(program, *words, *rule(item))
        assert done.returncode == 0, f"{item.page}:{item.line}: {item.text}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr


def test_an_experiment_and_a_loss_of_the_user_are_listed_and_logged(house, invoke, monkeypatch):
    monkeypatch.setenv("SR_CONF", str(house / "conf"))
    assert re.search(
        r"\n  shallow_x4 +Three convolutions, x2 and then x4, on our photographs\n", invoke("sr-train").stdout
    )
    rows = (house / "runs/l1_gradient/x2/metrics.csv").read_text()
    assert "train/pixel" in rows
    assert "train/gradient" in rows


@pytest.mark.parametrize("item", [*SPOKEN, *examples()], ids=str)
def test_a_command_in_a_text_or_yaml_composes(item):
    composed(item.text)


def test_what_make_quickstart_types_composes():
    recipe = re.search(r"^quickstart:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    commands = [re.sub(r" \$\(if .*\)", "", line.strip().removeprefix("$(BIN)/")) for line in recipe[1].splitlines()]
    assert [c.split()[0] for c in commands] == ["sr-train", "sr-eval", "sr-interp", "sr-report"]
    for command in commands:
        composed(command)


def test_a_gan_loss_can_have_a_term_of_the_user(monkeypatch, house):
    monkeypatch.syspath_prepend(str(house))
    node = "gan.loss.pixel={_target_: gradients.GradientLoss}"
    assert node in (DOCS / "extending.md").read_text()
    loss = plan(["experiment=quickstart", node]).stages[1].config["loss"]
    assert loss["pixel"] == {"_target_": "gradients.GradientLoss"}


@pytest.fixture(scope="module")
def configs():
    """Stages that have, together, every key that a recipe can have."""
    names = ("quickstart_edsr", "esrgan_x4", "msrgan_x4", "edvr_l_x4", "edsr_baseline_x2", "quickstart_mdsr")
    more = ("logger=[tensorboard,csv,wandb]", "launcher=slurm")
    recipes = [[f"experiment={name}", *more] for name in names]
    recipes += [["data=toy", f"degrade={name}"] for name in ("blind", "bsrgan")]
    return [stage for arguments in recipes for stage in plan(arguments).stages]


def is_known(word, configs):
    """Return true if KEY or KEY=VALUE is valid for a command or a stage."""
    key, _, value = word.partition("=")
    own = {k for name in CONFIG.values() for k, _, _ in keys_of(conf_folder() / f"{name}.yaml")}
    if "." not in key:
        return key in own or key in groups()
    typed = parse([f"{key}={value}"])[0].value() if value else None
    for stage in configs:
        plain = key.removeprefix(f"{stage.name}.")
        if plain in groups():
            return typed in options_of(plain)
        config = OmegaConf.create(stage.config)
        names = known_names(config, plain)
        if names is not None and plain.rpartition(".")[2] not in names:
            continue
        if not value:
            return True
        OmegaConf.update(config, plain, typed, force_add=True)
        if not check_values(OmegaConf.to_container(config), ""):
            return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_keys_that_the_text_names_exist(page, configs, house, monkeypatch):
    monkeypatch.syspath_prepend(str(house))
    dotted = rf"(?:{'|'.join([*groups(), 'validate', 'init', 'checkpoint', 'record', 'gan'])})\.[a-z_.]+"
    unknown = []
    for number, span in inline(page):
        if span.split(" ")[0] in (*CONFIG, "python", "pip", "make"):
            continue
        for word in re.split(r" (?=[a-z_.]+=)", span):
            named = re.fullmatch(dotted, word) and not word.endswith((".yaml", ".py", ".csv", ".safetensors"))
            if (named or re.fullmatch(r"[a-z][a-z_.0-9]*=.*", word)) and not is_known(word, configs):
                unknown.append(f"{number}: {word}")
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_files_and_links_of_a_page_exist(page):
    written = {i.file for i in TYPED}
    spans = [span for _, span in inline(page)]
    named = {span for span in spans if re.fullmatch(r"[\w./*-]+\.(py|yaml|md|toml)|(\w+/)+", span)}
    if page.stem != "basicsr":  # whose scripts are another program's
        named |= {
            word for span in spans for word in span.split() if re.fullmatch(r"scripts/[\w/]+\.(py|sh|sbatch)", word)
        }
    ours = {n for n in named - written if n.split("/")[0] in ("conf", "scripts", "tests", "sr_train", "docs", "bench")}
    ours |= {n for n in named if "/" not in n and n.endswith(".py")} - written
    missing = [n for n in ours if not any(list(at.glob(n.rstrip("/"))) for at in (ROOT, ROOT / "scripts"))]
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()) if "://" not in link]
    assert [*missing, *(link for link in links if not (page.parent / link).exists())] == []


def test_pages_are_short_and_each_is_in_the_table_of_contents():
    assert {p.stem for p in DOCS.glob("*.md")} == {"index", *ORDER}
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert [p.stem for p in PAGES if len(p.read_text().splitlines()) >= 250] == []


def test_every_public_name_exists_and_is_in_the_api():
    api = (DOCS / "api.md").read_text()
    assert [
        name for name in sr_train.__all__ if not hasattr(sr_train, name) or f":: sr_train.{name}\n" not in api
    ] == []


def test_the_tree_in_architecture_is_complete():
    tree = (DOCS / "architecture.md").read_text().partition("## The tree")[2]
    folders = {p.name for p in (ROOT / "sr_train").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= set(re.findall(r"(\w+)/ ", tree))
    assert set(re.findall(r"(\w+)/", tree.partition("conf/")[2].partition("\n")[0])) == set(groups())
