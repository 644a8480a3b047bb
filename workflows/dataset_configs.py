"""Write the dataset options of both branches from ``configs/subjects.yaml``: ``python -m workflows.dataset_configs``.

The published option names stay valid; every layout also gets a ``custom`` option that takes any folder from the command
line, and the embedded subject has options of its own. A test keeps the files and the table in step.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import yaml

CONFIG_FOLDER = Path(__file__).parents[1] / "configs"
HEADER = "# Generated from configs/subjects.yaml by `python -m workflows.dataset_configs`; edit the table instead.\n"
SCENE_BOX = [-1.25, -1.55, -1.25, 1.25, 0.95, 1.25]
"""Root-aligned box of the published system, metres; kept for its name, our marching follows the posed body."""
REQUIRED = "???"
EMBEDDED_LOAD = "data/embedded/load"
EMBEDDED_SIZE = [128, 128]
EMBEDDED_POSES = "turntable_and_varied"
EMBEDDED_DOWNSCALE = 8.4375
"""From the motions' 1080 pixels to 128."""

CAMERA_FOLDERS = {"synthetichuman": "synthetichuman", "zju-mocap": "zju"}
"""Layouts with a folder for each camera, and how the student's options begin."""

_log = logging.getLogger(__name__)

Options = Iterator[tuple[str, dict]]


def _range(frames: list, downscale: int) -> dict:
    """A split's options with the published *inclusive* ``end``; null means all frames."""
    start, stop, step = frames
    return {"start": start, "end": None if stop is None else stop - 1, "skip": step, "downscale": downscale}


def _implicit(name: str, root: str, subject: str, gender: str, **extra: object) -> dict:
    common = {"body_model": _body_model(root), "scene_aabb": SCENE_BOX, "exclude": []}
    return {"name": name, "dataroot": root, "subject": subject, "gender": gender, **common, **extra}


def _body_model(root: str) -> str:
    return "embedded" if root.startswith(EMBEDDED_LOAD) else "data/SMPLX/smpl"


def _implicit_peoplesnapshot(root: str, subject: str, gender: str, splits: dict, downscale: int) -> dict:
    ranges = {split: _range(frames, downscale) for split, frames in splits.items()}
    names = {f"{split}_split": split for split in splits}
    # The published test split is the training frames: `implicit_branch.dataset.test_split=train` selects it.
    return _implicit("peoplesnapshot", root, subject, gender, hdri_filepath=None, **names, opt=ranges)


def _implicit_rana(root: str, subject: str, gender: str, *, test: str, ranges: dict) -> dict:
    splits = {"train_split": "train_p1", "val_split": "train_p1", "test_split": test}
    return _implicit("rana", root, subject, gender, hdri_filepath=None, **splits, opt=ranges)


def _implicit_motion(motion: dict, subject: str, gender: str, *, subject_root: str) -> dict:
    test = _range(motion["frames"], motion.get("downscale", 2))
    fields = {"motion": motion["motion"], "subject_root": subject_root, "hdri_filepath": None}
    return _implicit("animation", motion["root"], subject, gender, **fields, opt={"test": test})


def implicit_options(table: dict) -> Options:
    """Name and content of every option of ``implicit_branch/dataset``."""
    everything, motions = [0, None, 1], table["motions"]
    custom_motion = {"root": REQUIRED, "motion": REQUIRED, "frames": everything, "downscale": 1}
    snapshot = table["peoplesnapshot"]
    for subject, entry in snapshot["subjects"].items():
        splits = {split: entry[split] for split in ("train", "val", "test")}
        capture = snapshot["root"], subject, entry["gender"]
        yield f"peoplesnapshot/{subject}", _implicit_peoplesnapshot(*capture, splits, snapshot["downscale"])
        subject_root = f"{snapshot['root']}/{subject}"
        for suffix, kind in (("", "animation"), ("-tpose", "distillation")):
            option = _implicit_motion(motions[kind], subject, entry["gender"], subject_root=subject_root)
            yield f"animation/{subject}{suffix}", option
    distilled = _implicit_motion(
        motions["distillation"], "male-3-casual", "male", subject_root=f"{snapshot['root']}/male-3-casual"
    )
    yield "distill_pose/male-3-casual", distilled
    one_frame = dict.fromkeys(("train", "val", "test"), [0, 1, 1])
    capture = snapshot["root"], "male-3-casual", "male"
    yield "peoplesnapshot/male-3-casual-frame", _implicit_peoplesnapshot(*capture, one_frame, snapshot["downscale"])
    whole = dict.fromkeys(("train", "val", "test"), everything)
    yield "peoplesnapshot/custom", _implicit_peoplesnapshot(REQUIRED, REQUIRED, REQUIRED, whole, 1)
    yield from _implicit_rana_options(table["rana"], motions)
    for layout in CAMERA_FOLDERS:
        yield from _implicit_camera_options(layout, table[layout], motions)
    yield "animation/custom", _implicit_motion(custom_motion, REQUIRED, REQUIRED, subject_root=REQUIRED)
    yield from _implicit_embedded_options()


def _implicit_rana_options(rana: dict, motions: dict) -> Options:
    everything = [0, None, 1]
    for subject, entry in rana["subjects"].items():
        train, val = _range(rana["train"], rana["downscale"]), _range(rana["val"], rana["downscale"])
        ranges = {"train": train, "val": val, "test": train}
        capture = rana["root"], subject, entry["gender"]
        yield f"rana/p1/{subject}", _implicit_rana(*capture, test="train_p1", ranges=ranges)
        if entry.get("relight"):
            relit = {"train": train, "val": val, "test": _range(rana["relight"], 1)}
            yield f"rana/relight/{subject}", _implicit_rana(*capture, test="test", ranges=relit)
        motion = {**motions["distillation"], "downscale": 1}
        option = _implicit_motion(motion, subject, entry["gender"], subject_root=f"{rana['root']}/train_p1/{subject}")
        yield f"animation/{subject}_tpose", option
    whole = dict.fromkeys(("train", "val", "test"), _range(everything, 1))
    for kind, test in (("p1", "train_p1"), ("relight", "test")):
        yield f"rana/{kind}/custom", _implicit_rana(REQUIRED, REQUIRED, REQUIRED, test=test, ranges=whole)


def _implicit_camera_options(layout: str, entry: dict, motions: dict) -> Options:
    """Subjects of a layout with a folder for each camera, and the motions that they are distilled from."""
    names = {f"{split}_split": split for split in ("train", "val", "test")}
    for subject, given in entry["subjects"].items():
        folder = entry["prefix"] + subject
        ranges = {split: _range(given[split], entry["downscale"]) for split in ("train", "val", "test")}
        source = {"camera": given["camera"], "hdri_filepath": None, **names, "opt": ranges}
        yield f"{layout}/{subject}", _implicit(layout, entry["root"], folder, given["gender"], **source)
        motion, root = {**motions["distillation"], "downscale": 1}, f"{entry['root']}/{folder}"
        yield f"animation/{folder}_tpose", _implicit_motion(motion, folder, given["gender"], subject_root=root)
    whole = dict.fromkeys(("train", "val", "test"), _range([0, None, 1], 1))
    source = {"camera": None, "hdri_filepath": None, **names, "opt": whole}
    yield f"{layout}/custom", _implicit(layout, REQUIRED, REQUIRED, REQUIRED, **source)


def _implicit_embedded_options() -> Options:
    everything = [0, None, 1]
    subject, gender = "subject_00", "male"
    held_out = {"train": [0, 20, 1], "val": [20, 21, 1], "test": [20, 24, 1]}
    capture = f"{EMBEDDED_LOAD}/peoplesnapshot", subject, gender
    yield f"peoplesnapshot/{subject}", _implicit_peoplesnapshot(*capture, held_out, 1)
    ranges = dict.fromkeys(("train", "val", "test"), _range(everything, 1))
    for kind, test in (("p1", "train_p1"), ("relight", "test")):
        yield (
            f"rana/{kind}/{subject}",
            _implicit_rana(f"{EMBEDDED_LOAD}/rana", subject, gender, test=test, ranges=ranges),
        )
    subject_root = f"{EMBEDDED_LOAD}/rana/train_p1/{subject}"
    for suffix, folder, motion in (
        ("_tpose", "distill_pose", EMBEDDED_POSES),
        ("_turntable", "animation", "turntable"),
        ("_walk", "animation", "walk"),
        ("_dance", "animation", "dance"),
    ):
        source = {
            "root": f"{EMBEDDED_LOAD}/{folder}",
            "motion": motion,
            "frames": everything,
            "downscale": EMBEDDED_DOWNSCALE,
        }
        yield f"animation/{subject}{suffix}", _implicit_motion(source, subject, gender, subject_root=subject_root)


def _explicit(folder: str, **dataset: object) -> dict:
    outputs = {"exp_dir": folder, "occ_dir": "${explicit_branch.exp_dir}"} if folder else {}
    subject = {"dataset_name": dataset["subject"]}
    common = {"white_background": True, "data_device": None, "preload": True, "padding": 0.1, "train_smpl": False}
    teacher = {"distill_data_dir": None, "obj_path": None, "init_mode": "IA", "rest_pose": "a_pose"}
    body = {"body_model": _body_model(str(dataset["root_dir"])), "exclude": "${implicit_branch.dataset.exclude}"}
    return {**subject, **outputs, "dataset": {**dataset, **body, **common, **teacher}}


def _frames(train: list, test: list) -> dict:
    return {"train_frames": train, "test_frames": {"pose": test, "all": [0, None, 1]}, "test_mode": "pose"}


def explicit_options(table: dict) -> Options:
    """Name and content of every option of ``explicit_branch/dataset``."""
    everything, motion = [0, None, 1], table["motions"]["animation"]
    snapshot, rana = table["peoplesnapshot"], table["rana"]
    for subject, entry in snapshot["subjects"].items():
        short = "_".join(subject.split("-")[:2])
        capture = {"root_dir": snapshot["root"], "subject": subject, "gender": entry["gender"]}
        folder = f"exp/ps_{short.replace('_', '')}_2dgs"
        frames = _frames(entry["train"], entry["test"]) | {"img_hw": snapshot["size"]}
        yield f"ps_IA_{short}", _explicit(folder, name="people_snapshot", **capture, **frames)
        animated = _frames(entry["train"], motion["frames"]) | {"img_hw": [1080, 1080]}
        source = {"motion_root": motion["root"], "motion": motion["motion"]}
        yield f"ps_IA_animation_{short}", _explicit(folder, name="animation", **capture, **source, **animated)
    for subject, entry in rana["subjects"].items():
        capture = {"name": "rana", "root_dir": rana["root"], "subject": subject, "gender": entry["gender"]}
        folder = f"exp/rana_s{subject[-2:]}_2dgs"
        frames = _frames(rana["train"], rana["train"]) | {"img_hw": rana["size"], "split": "train_p1"}
        yield f"rana_IA_{subject}_{entry['gender']}", _explicit(folder, **capture, **frames)
        if entry.get("relight"):
            relit = _frames(rana["train"], rana["relight"]) | {"img_hw": rana["relight_size"], "split": "test"}
            yield f"rana_IA_{subject}_{entry['gender']}_relight", _explicit(folder, **capture, **relit)
    for layout in CAMERA_FOLDERS:
        yield from _explicit_camera_options(layout, table[layout])
    any_capture = {"root_dir": REQUIRED, "subject": REQUIRED, "gender": REQUIRED}
    any_motion = {"motion_root": REQUIRED, "motion": REQUIRED}
    whole = _frames(everything, everything) | {"img_hw": REQUIRED}
    any_folder = "exp/${explicit_branch.dataset.subject}_2dgs"
    yield "ps_IA_custom", _explicit(any_folder, name="people_snapshot", **any_capture, **whole)
    yield "ps_IA_animation_custom", _explicit(any_folder, name="animation", **any_capture, **any_motion, **whole)
    for suffix, split in (("", "train_p1"), ("_relight", "test")):
        yield f"rana_IA_custom{suffix}", _explicit(any_folder, name="rana", **any_capture, **whole, split=split)
    yield from _explicit_embedded_options(_frames(everything, everything) | {"img_hw": EMBEDDED_SIZE})


def _explicit_camera_options(layout: str, entry: dict) -> Options:
    """A layout with a folder for each camera: tested on its own images and, where it has them, on relit ones."""
    kinds = {"": "train", "_relight": "test"} if layout == "synthetichuman" else {"": "test"}
    for suffix, split in kinds.items():
        for subject, given in entry["subjects"].items():
            capture = {"name": layout, "root_dir": entry["root"], "subject": entry["prefix"] + subject}
            capture |= {"gender": given["gender"], "camera": given["camera"], "img_hw": entry["size"], "split": split}
            folder = f"exp/{CAMERA_FOLDERS[layout]}_{subject}_2dgs"
            yield (
                f"{CAMERA_FOLDERS[layout]}_IA_{subject}{suffix}",
                _explicit(folder, **capture, **_frames(given["train"], given[split])),
            )
        everything = [0, None, 1]
        capture = {"name": layout, "root_dir": REQUIRED, "subject": REQUIRED, "gender": REQUIRED, "camera": None}
        frames = _frames(everything, everything) | {"img_hw": REQUIRED, "split": split}
        folder = "exp/${explicit_branch.dataset.subject}_2dgs"
        yield f"{CAMERA_FOLDERS[layout]}_IA_custom{suffix}", _explicit(folder, **capture, **frames)


def _explicit_embedded_options(frames: dict) -> Options:
    capture = {"root_dir": f"{EMBEDDED_LOAD}/peoplesnapshot", "subject": "subject_00", "gender": "male"}
    folder = "exp/embedded_2dgs"
    held_out = _frames([0, 20, 1], [20, 24, 1]) | {"img_hw": EMBEDDED_SIZE}
    yield "ps_IA_subject_00", _explicit(folder, name="people_snapshot", **capture, **held_out)
    source = {"motion_root": f"{EMBEDDED_LOAD}/animation", "motion": "turntable"}
    yield (
        "ps_IA_animation_subject_00",
        _explicit(
            folder, name="animation", **capture, **source, **_frames([0, 20, 1], [0, None, 1]), img_hw=EMBEDDED_SIZE
        ),
    )
    capture |= {"root_dir": f"{EMBEDDED_LOAD}/rana"}
    for suffix, split in (("", "train_p1"), ("_relight", "test")):
        yield f"rana_IA_subject_00_male{suffix}", _explicit(folder, name="rana", **capture, **frames, split=split)


def distillation_options(table: dict) -> Options:
    """Name and content of every option of ``explicit_branch/distill_dataset``."""
    motion, snapshot, rana = table["motions"]["distillation"], table["peoplesnapshot"], table["rana"]
    everything, same, tpose = [0, None, 1], "${implicit_branch.tag}", "${implicit_branch.tag}-tpose"
    for subject in snapshot["subjects"]:
        short = "_".join(subject.split("-")[:2])
        root = f"{snapshot['root']}/{subject}"
        yield f"ps_IA_distill_{short}", _distillation(tpose, motion, root, downscale=2)
    for subject in rana["subjects"]:
        root = f"{rana['root']}/train_p1/{subject}"
        yield f"distill_rana_{subject}", _distillation(same, motion, root, downscale=1)
    for layout, short in CAMERA_FOLDERS.items():
        entry = table[layout]
        for subject in entry["subjects"]:
            root = f"{entry['root']}/{entry['prefix']}{subject}"
            yield f"distill_{short}_{subject}", _distillation(same, motion, root, downscale=1)
    custom = {"root": REQUIRED, "motion": REQUIRED, "frames": everything}
    embedded = {"root": f"{EMBEDDED_LOAD}/distill_pose", "motion": EMBEDDED_POSES, "frames": everything}
    for name, tag, root in (("ps_IA_distill", tpose, "peoplesnapshot"), ("distill_rana", same, "rana/train_p1")):
        yield f"{name}_custom", _distillation(tag, custom, REQUIRED, downscale=1)
        subject_root = f"{EMBEDDED_LOAD}/{root}/subject_00"
        yield f"{name}_subject_00", _distillation(tag, embedded, subject_root, downscale=EMBEDDED_DOWNSCALE)


def _distillation(tag: str, motion: dict, subject_root: str, *, downscale: float) -> dict:
    source = {"motion_root": motion["root"], "motion": motion["motion"], "subject_root": subject_root}
    paths = {"distill_pose_data_dir": None, "alpha_data_dir": None}
    return {"distill_dataset": {"tag": tag, **source, "frames": motion["frames"], "downscale": downscale, **paths}}


def render(config_folder: Path = CONFIG_FOLDER) -> dict[Path, str]:
    """Path and text of every generated file."""
    table = yaml.safe_load((config_folder / "subjects.yaml").read_text())
    files = {}
    for group, package, options in (
        ("implicit_branch/dataset", "", implicit_options),
        ("explicit_branch/dataset", "# @package explicit_branch\n", explicit_options),
        ("explicit_branch/distill_dataset", "# @package explicit_branch\n", distillation_options),
    ):
        for name, content in options(table):
            text = yaml.dump(content, sort_keys=False, default_flow_style=None, width=120, Dumper=_NoAliases)
            files[config_folder / group / f"{name}.yaml"] = package + HEADER + text
    return files


class _NoAliases(yaml.SafeDumper):
    """Writes repeated lists out instead of ``*id001`` references."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def main() -> None:
    """Command line of the generator."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    files = render()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    _log.info("wrote %d dataset options under %s", len(files), CONFIG_FOLDER)


if __name__ == "__main__":
    main()
