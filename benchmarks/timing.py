"""How benchmarks measure, and the rows that they write."""

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Row:
    """One measurement."""

    case: str
    median_ms: float
    p90_ms: float | None
    busy_ms: float | None
    """Sum of the durations of kernels, copies and fills per call: the time if launches were free."""
    device: str
    torch: str
    commit: str
    method: str
    """What the timed region holds, and how often it ran."""
    surfels: int | None = None
    points: int | None = None
    resolution: int | None = None


def measure(function: Callable[[], object], *, warmup: int = 20, repeats: int = 200) -> dict[str, float]:
    """``median_ms`` and ``p90_ms`` of single calls: CUDA events where there is a GPU, else the wall clock."""
    for _ in range(warmup):
        function()
    times = _event_times(function, repeats) if torch.cuda.is_available() else _wall_times(function, repeats)
    return {"median_ms": statistics.median(times), "p90_ms": sorted(times)[int(0.9 * (repeats - 1))]}


def busy(function: Callable[[], object], *, repeats: int = 20) -> float | None:
    """GPU milliseconds per call under the profiler; None without a GPU."""
    kernels = busy_by_kernel(function, repeats=repeats)
    return sum(kernels.values()) if kernels else None


def busy_by_kernel(function: Callable[[], object], *, repeats: int = 20) -> dict[str, float]:
    """GPU milliseconds per call of each kernel, copy and fill, longest first."""
    if not torch.cuda.is_available():
        return {}
    from torch.profiler import ProfilerActivity, profile

    function()
    _wait()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            function()
        _wait()
    total: dict[str, float] = {}
    for event in profiler.events():
        if str(event.device_type).endswith("CUDA") and "#" not in event.name:
            total[event.name] = total.get(event.name, 0.0) + event.time_range.elapsed_us() / 1000 / repeats
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def device_name() -> str:
    """What was measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.processor() or platform.machine()}), {torch.get_num_threads()} threads"


def row(case: str, function: Callable[[], object], method: str, *, repeats: int = 200, **sizes: int) -> Row:
    """Measure ``function`` as ``case``; ``sizes`` are the row's surfels, points and resolution."""
    times = measure(function, repeats=repeats)
    return make_row(case, times, busy(function), f"{repeats} calls after 20; {method}", **sizes)


def make_row(case: str, times: dict[str, float], busy_ms: float | None, method: str, **sizes: int) -> Row:
    """A row of times measured otherwise."""
    made = Row(
        case,
        times["median_ms"],
        times.get("p90_ms"),
        busy_ms,
        device_name(),
        torch.__version__,
        _commit(),
        method,
        **sizes,
    )
    print(f"{case:28s} {sizes} median {made.median_ms:.4f} ms, busy {busy_ms}", flush=True)  # noqa: T201
    return made


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write ``rows``; those of the same case, sizes and device in an existing file are replaced."""

    def key(entry: dict) -> tuple:
        return tuple(entry.get(name) for name in ("case", "surfels", "points", "resolution", "device"))

    kept = {key(entry): entry for entry in (json.loads(path.read_text()) if path.exists() else [])}
    for made in rows:
        entry = {name: value for name, value in asdict(made).items() if value is not None or name.endswith("_ms")}
        kept[key(entry)] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(kept.values()), indent=2) + "\n")


def _event_times(function: Callable[[], object], repeats: int) -> list[float]:
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    _wait()
    for start, end in events:
        start.record()
        function()
        end.record()
    _wait()
    return [start.elapsed_time(end) for start, end in events]


def _wall_times(function: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append((time.perf_counter() - start) * 1000)
    return times


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
