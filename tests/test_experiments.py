"""Every experiment composes, builds and takes one step, with the data replaced by toy photographs and the net made small."""

from pathlib import Path

import pytest
import torch
from rehearsal import rehearse

from sr_train.config.build import build
from sr_train.config.folders import conf_folder
from sr_train.config.plan import plan
from sr_train.data.module import SRData
from sr_train.models import features
from sr_train.models.rrdbnet import RRDBNet
from sr_train.training.preflight import preflight
from sr_train.training.stage import run_stage
from sr_train.weights.file import Weights, load_weights, save_weights

pytestmark = pytest.mark.slow

EXPERIMENTS = sorted((conf_folder() / "experiment").rglob("*.yaml"))
REHEARSED: set[str] = set()  #: stages whose step was rehearsed
KNOWN = (
    {"quickstart", "quickstart_edsr", "quickstart_mdsr", "srresnet_x4", "msrresnet_x4", "rrdbnet_x4", "esrgan_x4"}
    | {"srgan_x4", "msrgan_x4", "mdsr", "mdsr_baseline", "quickstart_video", "realesrgan_x4", "esrgan_finetune_x4"}
    | {"edsr_fast_x2"}
    | {"edvr_m_x4", *(f"edvr_l_{n}" for n in ("x4", "vimeo90k_x4", "srblur_x4", "deblur", "deblurcomp"))}
    | {f"{n}_x{s}" for n in ("edsr", "edsr_baseline") for s in (2, 3, 4)}
)
PARAMETERS = {  # of the network that an experiment ends with
    "edsr_x2": 40_729_603, "edsr_x3": 43_680_003, "edsr_x4": 43_089_923,
    "edsr_baseline_x2": 1_369_859, "edsr_fast_x2": 1_369_859, "edsr_baseline_x3": 1_554_499, "edsr_baseline_x4": 1_517_571,
    "srresnet_x4": 1_549_462, "msrresnet_x4": 1_517_571, "srgan_x4": 1_549_462, "msrgan_x4": 1_517_571,
    "rrdbnet_x4": 16_697_987, "esrgan_x4": 16_697_987, "mdsr": 7_957_449, "mdsr_baseline": 3_230_665,
    "realesrgan_x4": 16_697_987, "esrgan_finetune_x4": 16_697_987,
    "edvr_m_x4": 3_300_131, "edvr_l_x4": 20_633_827, "edvr_l_vimeo90k_x4": 20_699_363, "edvr_l_srblur_x4": 23_306_851,
    "edvr_l_deblur": 23_602_019, "edvr_l_deblurcomp": 23_602_019,
}  # fmt: skip


def test_the_experiments_are_found():
    assert {p.stem for p in EXPERIMENTS} == KNOWN


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_an_experiment_begins_with_the_required_comments(path: Path):
    text = path.read_text()
    assert text.startswith("# @package _global_\n# ")
    for heading in ("Paper:", "Command:", "Needs:", "Takes:", "Reaches:", "Differs:"):
        assert heading in text, f"{path.name} does not say {heading}"


def test_every_paper_has_a_number_of_parameters():
    assert KNOWN - PARAMETERS.keys() == {"quickstart", "quickstart_edsr", "quickstart_mdsr", "quickstart_video"}


def counted(monkeypatch):
    """Count how often the data of a stage is opened and a file of features is read."""
    counts = {"data": 0, "features": 0}
    open_data, read = SRData.__init__, features.read_tensors

    def opened(self, **arguments):
        counts["data"] += 1
        open_data(self, **arguments)

    def read_features(path):
        counts["features"] += 1
        return read(path)

    monkeypatch.setattr(SRData, "__init__", opened)
    monkeypatch.setattr(features, "read_tensors", read_features)
    return counts


def rehearse_shallow(config):
    """Rehearse a stage on a GPU with real channels, patches and losses, and few of its equal blocks; equal stages once."""
    few = {name: 1 for name in ("blocks", "front_blocks", "back_blocks") if name in config["model"]}
    config = {**config, "model": {**config["model"], **few}}
    key = repr([config[name] for name in ("model", "task", "loss")])
    if key not in REHEARSED:
        REHEARSED.add(key)
        rehearse(config)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_stage_composes_builds_and_takes_one_step(path: Path, tmp_path, monkeypatch, tiny_vgg, short_clip):
    monkeypatch.chdir(tmp_path)
    video = path.stem.startswith("edvr") or path.stem == "quickstart_video"
    kind = "toy_clips" if video else "toy"
    small = [
        f"data={kind}",
        f"sets=[{kind}]",
        "data.lr_patch=16",
        "data.batch=2",
        "data.workers=0",
        "trainer.max_steps=1",
    ]
    small += ["model.channels=16", "logger=none"]
    small += [] if video else ["model.blocks=2"]
    composed = plan([f"experiment={path.stem}"])
    names = [s.name for s in composed.stages]
    with torch.device("meta"):  # the network of the paper, before it is made small
        network = build(composed.stages[-1].config["model"])
    for stage in composed.stages:
        rehearse_shallow(stage.config)
    count = sum(p.numel() for p in network.parameters())
    assert count == PARAMETERS.get(path.stem, count)
    if video:
        small += [f"{s.name}.data.frames={s.config['model']['frames']}" for s in composed.stages]
        if composed.stages[-1].config["scale"] == 1:  # frames are as large as the result: no toy set has such
            small += ["sets=[]", "data.train=[{hr: 'toy_clips:astronaut', lr: 'toy_clips:astronaut'}]"]
        else:
            small += [f"sets.toy_clips={{hr: {short_clip}}}"]
        small += ["model.front_blocks=1", *(f"{n}.model.back_blocks={1 if n == 'shallow' else 2}" for n in names)]
    gans = [s.config["task"]["discriminator"] for s in composed.stages if "discriminator" in s.config["task"]]
    if gans:
        small += ["task.discriminator.channels=4", *(["task.discriminator.size=64"] if "size" in gans[0] else [])]
    if path.stem == "esrgan_finetune_x4":
        model = {"scale": 4, "channels": 16, "growth": 32, "blocks": 2}
        target = {"_target_": "sr_train.models.rrdbnet.RRDBNet", **model}
        save_weights("start.safetensors", Weights(target, RRDBNet(**model).state_dict()))
        small += ["init.weights=start.safetensors", "init.discriminator=null"]
    has_features = any((s.config["loss"].get("perceptual") is not None) for s in composed.stages)
    if has_features:
        small += [f"loss.perceptual.extractor.weights={tiny_vgg}"]
    composed = plan([f"experiment={path.stem}", "trainer.accelerator=cpu", *small])
    assert composed.stages
    counts = counted(monkeypatch)
    for ready in preflight(composed):
        stage, weights = ready.stage, load_weights(run_stage(composed, ready))
        assert weights.origin["step"] == 1
        assert list(weights.scales) == stage.scales
        assert all(torch.isfinite(v).all() for v in weights.state.values())
        protocol = "rgb_full" if video else "y"
        scored = f"{'toy_mean' if 'mdsr' in path.stem else kind}/{protocol}/psnr"
        assert (scored in weights.scores) == bool(stage.config["data"]["val"])
    assert counts["data"] == len(composed.stages)
    assert counts["features"] == (2 if has_features else 0)  # checked at the start, built at its turn
