"""Frame ranges in both published notations."""

import pytest

from core.errors import InputError
from data.frame_range import ALL_FRAMES, FrameRange


def test_published_ranges():
    """Catches the inclusive end taken as exclusive: the published 0-455 by 4 are 114 frames, 0-445 are 112."""
    assert len(FrameRange.inclusive(0, 455, 4).indices(456, "x")) == 114
    assert len(FrameRange.inclusive(0, 445, 4).indices(456, "x")) == 112
    assert FrameRange.inclusive(456, 456).indices(457, "x") == [456]
    assert len(FrameRange.of([0, 456, 4]).indices(456, "x")) == 114


def test_open_ranges():
    """Catches a null end read as zero."""
    assert ALL_FRAMES.indices(3, "x") == [0, 1, 2]
    assert FrameRange.inclusive(1, None, 2).indices(6, "x") == [1, 3, 5]
    assert FrameRange.of(None) == FrameRange.of([0, None, 1]) == ALL_FRAMES


def test_last_selected_frame_counts():
    """Catches a complaint about frames that the step skips anyway."""
    assert FrameRange(0, 456, 4).indices(453, "x")[-1] == 452


@pytest.mark.parametrize(
    ("frames", "count", "message"),
    [
        (FrameRange.inclusive(0, 455), 312, r"312 images \(0-311\), expected frames 0-455"),
        (FrameRange(500, None), 312, r"312 images \(0-311\), expected frames 500-the end"),
        (FrameRange(5, 5), 312, "expected frames 5-4"),
        (ALL_FRAMES, 0, "no images"),
        (FrameRange(0, 5, 0), 312, "steps of 0"),
        (FrameRange(-3, 5), 312, "frames -3-4"),
    ],
)
def test_range_beyond_the_data(frames, count, message):
    """Catches slices that shorten in silence: both what was asked for and what there is are named."""
    with pytest.raises(InputError, match=message):
        frames.indices(count, "folder", "images")


def test_frames_can_be_left_out():
    """Fails when positions are counted after the step, or frames outside of the range are an error."""
    assert FrameRange(2, 12, 3).without([5, 6]).indices(12, "x") == [2, 8, 11]
    assert FrameRange(2, 12, 3).without([5]).complete.indices(12, "x") == [2, 5, 8, 11]


@pytest.mark.parametrize(
    ("exclude", "message"), [([12], "positions among them"), ([2, 5, 8, 11], "a frame that is left")]
)
def test_impossible_exclusions(exclude, message):
    """Fails when a mistyped list leaves out nothing, or everything, in silence."""
    with pytest.raises(InputError, match=message):
        FrameRange(2, 12, 3).without(exclude).indices(12, "x")
