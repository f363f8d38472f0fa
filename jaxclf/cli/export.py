"""`jaxclf export RUN FILE`: a run's classifier in one file, for use without the run."""

import functools
from typing import Annotated, Literal

import tyro

from jaxclf.cli.arguments import RunArgument, UsageError, Work, positional

FileArgument = Annotated[str, tyro.conf.Positional, positional("FILE")]


def export(
    run: RunArgument,
    file: FileArgument,
    /,
    platforms: tuple[Literal["cpu", "cuda", "tpu", "rocm"], ...] = ("cpu", "cuda", "tpu"),
    overwrite: bool = False,
) -> Work:
    """Write a run's classifier to one file: network, classes, preprocessing and calibration, for any batch size.

    Its probabilities are the run's. It is read by `jaxclf predict FILE IMAGES` and, in Python, by
    jaxclf.load_exported("FILE").predict("cat.jpg"). For PyTorch, use `jaxclf weights export`.

    Example: jaxclf export runs/photos photos.jaxclf

    Args:
      run: the RUN folder.
      file: the file to write.
      platforms: where it shall run; none of them needs to be here.
      overwrite: replace FILE.
    """
    return functools.partial(_export, run, file, platforms, overwrite)


def _export(run_folder: str, file: str, platforms: tuple[str, ...], overwrite: bool) -> int:
    from jaxclf.cli.terminal import Terminal
    from jaxclf.inference.export import check_target, export_classifier
    from jaxclf.run.load import load_run

    if not platforms:
        raise UsageError("platforms is empty; name some of cpu, cuda, tpu, rocm")
    check_target(file, overwrite=overwrite)
    run = load_run(run_folder)
    path = export_classifier(
        file,
        run.model,
        run.variables,
        preprocess=run.spec.preprocess,
        classes=run.classes,
        temperature=run.temperature,
        multi_label=run.spec.multi_label,
        threshold=run.spec.threshold,
        platforms=platforms,
        overwrite=overwrite,
    )
    terminal = Terminal()
    calibration = f"calibrated with temperature {run.temperature:.3g}" if run.temperature != 1.0 else "not calibrated"
    terminal.note(
        f"{run.spec.arch}, {len(run.classes)} classes, {run.spec.preprocess.image_size} px, {run.spec.precision}, "
        f"{calibration}, for {', '.join(platforms)}"
    )
    terminal.note(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
