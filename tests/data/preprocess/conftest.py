"""The embedded subject, whose raw captures the converters read."""

import pytest

from data import embedded
from data.peoplesnapshot import PeopleSnapshotFrames
from tests.data.preprocess.raw_captures import COUNT


@pytest.fixture(scope="session")
def original():
    """The first frames of the embedded subject, as the project reads them."""
    root = embedded.load_root() / "peoplesnapshot"
    frames = PeopleSnapshotFrames(
        root=root, subject=embedded.SUBJECT, gender=embedded.GENDER, split="raw", preload=True
    )
    return [frames[i] for i in range(COUNT)]
