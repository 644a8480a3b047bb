"""Training curves as pictures, from the TensorBoard logs of a run."""

import logging
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read_scalars(log_folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Every scalar logged anywhere under ``log_folder``: tag -> (steps, values)."""
    # TensorBoard reports the end of every file.
    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    scalars: dict[str, tuple[list[int], list[float]]] = {}
    for folder in sorted({path.parent for path in log_folder.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            steps, values = scalars.setdefault(tag, ([], []))
            for event in events.Scalars(tag):
                steps.append(event.step)
                values.append(event.value)
    return scalars


def plot_curves(log_folder: Path, output: Path, *, title: str, limit: int = 8) -> Path | None:
    """Draw the ``limit`` largest losses logged under ``log_folder`` into ``output``; None if there are none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scalars = {tag: curve for tag, curve in read_scalars(log_folder).items() if tag.startswith(("train/", "loss/"))}
    # The terms that matter most: those of the largest mean.
    tags = sorted(scalars, key=lambda tag: -sum(scalars[tag][1]) / len(scalars[tag][1]))[:limit]
    if not tags:
        return None
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for tag in tags:
        steps, values = scalars[tag]
        axes.plot(steps, values, linewidth=1.2, label=tag.removeprefix("train/").removeprefix("loss/"))
    axes.set(yscale="log", xlabel="step", title=title)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, ncols=2)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)
    pyplot.close(figure)
    return output
