"""An output folder that is filled frame by frame, by several threads, and can be continued."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from core.errors import InputError, list_some
from core.files import read_json, write_json_atomically

SCHEMA = 1
RECORD = "conversion.json"
_START_OVER = "Choose another output folder, or remove this one to start over."

Job = Callable[[], None]


class Conversion:
    """Fills ``folder`` from a source; its record says from what, with which settings, and whether it is complete.

    Files are written under temporary names and renamed, so a file that exists is finished; a second run with the same
    settings goes on with those that do not exist.
    """

    def __init__(self, folder: str | Path, program: str, settings: dict[str, Any]) -> None:
        """Open or create ``folder``, and remove what an interrupted run left unfinished.

        Args:
            program: the converter's name.
            settings: JSON values that determine the content: options, and fingerprints of the sources.

        Raises:
            InputError: the folder holds something else, or was made from other sources or with other settings.
        """
        self.folder = Path(folder)
        self._content = {"schema": SCHEMA, "program": program, "settings": settings}
        record = self.folder / RECORD
        if record.is_file():
            _compare(record, read_json(record, _START_OVER), self._content)
            for leftover in self.folder.glob("*/.*_[0-9]*-*"):  # named by core.files.replacing
                leftover.unlink()
        elif (self.folder / "images").exists() or (self.folder / "poses.npz").exists():
            raise InputError(
                self.folder,
                found=f"a dataset that {program} did not make (no {RECORD})",
                expected="a new folder, or one to continue",
                next_step=_START_OVER,
            )
        write_json_atomically(record, {**self._content, "complete": False})

    def finish(self) -> None:
        """Record that everything is written."""
        write_json_atomically(self.folder / RECORD, {**self._content, "complete": True})


def _compare(record: Path, found: Any, asked: dict[str, Any]) -> None:
    content = found if isinstance(found, dict) else {}
    before = {"program": content.get("program"), **content.get("settings", {})}
    now = {"program": asked["program"], **asked["settings"]}
    differ = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if differ:
        raise InputError(
            record,
            found=list_some(f"{name} {before.get(name)}" for name in differ),
            expected=list_some(f"{name} {now.get(name)}" for name in differ),
            next_step=_START_OVER,
        )


def fingerprint(path: str | Path) -> str:
    """Tells files apart without reading large ones in full: size, and a hash of the first megabyte."""
    path = Path(path)
    with path.open("rb") as stream:
        return f"{path.stat().st_size}:{hashlib.sha256(stream.read(1 << 20)).hexdigest()[:16]}"


def run_jobs(jobs: Iterable[Job | None], total: int, title: str, workers: int) -> None:
    """Run ``jobs`` in ``workers`` threads with a progress bar; None stands for a job that was done before.

    Jobs are taken from the iterable when threads are free, so that decoded frames do not pile up. The first error stops
    the rest.
    """
    with ThreadPoolExecutor(workers) as pool, tqdm(total=total, desc=title, unit="frame") as bar:
        pending: set[Future[None]] = set()
        try:
            for job in jobs:
                if job is None:
                    bar.update()
                    continue
                pending.add(pool.submit(job))
                if len(pending) >= 2 * workers:
                    pending = _collect(pending, bar)
            while pending:
                pending = _collect(pending, bar)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _collect(pending: set[Future[None]], bar: tqdm) -> set[Future[None]]:
    done, rest = wait(pending, return_when=FIRST_COMPLETED)
    for job in done:
        job.result()
        bar.update()
    return rest
