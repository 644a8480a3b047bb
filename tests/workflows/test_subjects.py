"""Every published subject has its options in both branches, under the published names and with the published ranges."""

import pytest

from tests.workflows.test_configuration import compose, options

PEOPLE = {
    "male-3-casual": (0, 455, 4), "male-4-casual": (0, 659, 6), "female-3-casual": (0, 445, 4),
    "female-4-casual": (0, 335, 4), "male-2-casual": (0, 311, 3), "female-1-casual": (0, 495, 4),
}  # fmt: skip
"""Published training frames, the last one included."""
RANA = {f"subject_{n}": "male" for n in ("01", "02", "05", "06", "14", "33", "36")} | {
    f"subject_{n}": "female" for n in ("46", "48")
}
RELIT = ("01", "02", "36", "46", "48")
PUBLISHED = {
    "implicit_branch/dataset": [
        *(f"animation/{name}" for name in
          ("male-3-casual", "male-4-casual", "female-1-casual", "female-3-casual", "male-3-casual-tpose",
           "female-3-casual-tpose")),
        *(f"animation/subject_{n}_tpose" for n in ("01", "02", "05", "06", "33", "36", "46", "48")),
        *(f"peoplesnapshot/{name}" for name in PEOPLE), "peoplesnapshot/male-3-casual-frame",
        *(f"rana/p1/{name}" for name in RANA), *(f"rana/relight/subject_{n}" for n in RELIT),
        "distill_pose/male-3-casual", "synthetichuman/jody", "synthetichuman/leonard",
        *(f"zju-mocap/{n}" for n in (313, 377, 386, 387, 392)),
    ],
    "explicit_branch/dataset": ["ps_IA_male_3", "ps_IA_animation_male_3", "rana_IA_subject_01_male",
                                "rana_IA_subject_01_male_relight"],
    "explicit_branch/distill_dataset": ["ps_IA_distill_male_3", "distill_rana_subject_01"],
}  # fmt: skip


@pytest.mark.parametrize("group", tuple(PUBLISHED))
def test_published_option_names_are_valid(group: str):
    """Fails when a published command line names a dataset file that is no longer there."""
    assert set(PUBLISHED[group]) <= set(options(group))


@pytest.mark.parametrize("name", tuple(PEOPLE))
def test_peoplesnapshot_subjects(name: str):
    """Fails when a subject misses an option, or its branches train on different frames or another gender."""
    short = name.replace("-casual", "").replace("-", "_")
    config = compose("config_peoplesnapshot", f"implicit_branch/dataset=peoplesnapshot/{name}",
                     f"explicit_branch/dataset=ps_IA_{short}",
                     f"explicit_branch/distill_dataset=ps_IA_distill_{short}")  # fmt: skip
    taught, learned = config.implicit_branch.dataset, config.explicit_branch.dataset
    start, end, skip = PEOPLE[name]
    assert (taught.opt.train.start, taught.opt.train.end, taught.opt.train.skip) == (start, end, skip)
    assert list(range(*learned.train_frames)) == list(range(start, end + 1, skip))
    assert (taught.subject, learned.subject) == (name, name)
    assert taught.gender == learned.gender == name.partition("-")[0]
    assert {f"animation/{name}", f"animation/{name}-tpose"} <= set(options("implicit_branch/dataset"))
    assert f"ps_IA_animation_{short}" in options("explicit_branch/dataset")
    assert config.explicit_branch.distill_dataset.subject_root == f"load/peoplesnapshot/{name}"


@pytest.mark.parametrize(("name", "gender"), RANA.items())
def test_rana_subjects(name: str, gender: str):
    """Fails when a subject misses an option in a branch, or has the wrong gender, size or number of frames."""
    config = compose("config_rana", f"implicit_branch/dataset=rana/p1/{name}",
                     f"explicit_branch/dataset=rana_IA_{name}_{gender}",
                     f"explicit_branch/distill_dataset=distill_rana_{name}")  # fmt: skip
    taught, learned = config.implicit_branch.dataset, config.explicit_branch.dataset
    assert (taught.gender, learned.gender, taught.subject, learned.subject) == (gender, gender, name, name)
    assert (taught.opt.train.start, taught.opt.train.end, taught.opt.train.downscale) == (0, 99, 4)
    assert (list(learned.train_frames), list(learned.img_hw)) == ([0, 100, 1], [540, 960])
    assert f"animation/{name}_tpose" in options("implicit_branch/dataset")
    if name[-2:] in RELIT:
        config = compose("config_rana", f"implicit_branch/dataset=rana/relight/{name}",
                         f"explicit_branch/dataset=rana_IA_{name}_{gender}_relight")  # fmt: skip
        taught, learned = config.implicit_branch.dataset, config.explicit_branch.dataset
        assert (taught.test_split, taught.opt.test.end, taught.opt.test.downscale) == ("test", 149, 1)
        assert (learned.split, list(learned.test_frames.pose), list(learned.img_hw)) == (
            "test",
            [0, 150, 1],
            [720, 1280],
        )
