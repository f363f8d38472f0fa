"""The commands by name, and the small ones: evaluate, export, completion, and `weights`, which has its own."""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Literal

import tyro

from jaxclf.cli.arguments import DataArgument, FileArgument, RunArgument, UsageError, Work, command
from jaxclf.cli.check import Check
from jaxclf.cli.completion import completion_script
from jaxclf.cli.cost import Cost
from jaxclf.cli.demo import Demo
from jaxclf.cli.find_lr import FindLr
from jaxclf.cli.fit import Fit
from jaxclf.cli.predict import Predict
from jaxclf.cli.report import Report
from jaxclf.cli.sweep import Sweep


@command
class Evaluate:
    """Loss and accuracy of a run on labelled photos.

    On the data the run was trained on, these are the figures of its validation pictures, the same as in summary.json.

    Example: jaxclf evaluate runs/photos photos

    Attributes:
      run: the RUN folder.
      data: folder of photos, as for fit.
      split: which part; "auto" is the validation part, or everything where DATA is new and has none.
      format: how to print.
      on_bad_image: "skip" leaves out photos that cannot be read and lists them; the figures are then not those of the
        whole data set.
    """

    run: RunArgument
    data: DataArgument
    split: Literal["auto", "train", "valid", "all"] = "auto"
    format: Literal["table", "json"] = "table"
    on_bad_image: Literal["error", "skip"] = "error"

    def __call__(self) -> int:
        from jaxclf.cli.terminal import Terminal
        from jaxclf.run.evaluate import evaluate_run
        from jaxclf.run.load import load_run

        run = load_run(self.run)
        with Terminal().task("decoding and judging", 1) as progress:
            found = evaluate_run(run, self.data, self.split, on_bad_image=self.on_bad_image, on_progress=progress)
        for reason in found.get("skipped", ()):
            sys.stderr.write(f"jaxclf: skipped: {reason}\n")
        beta = f"  F2 {found['f_beta']:.4f}" if "f_beta" in found else ""
        skipped = f", {len(found['skipped'])} of them skipped" if "skipped" in found else ""
        text = f"accuracy {found['accuracy']:.4f}{beta}  loss {found['loss']:.4f}  on {found['examples']}{skipped}"
        print(json.dumps(found) if self.format == "json" else text)  # noqa: T201
        return 0


@command
class Export:
    """Write a run's classifier to one file: network, classes, preprocessing and calibration, for any batch size.

    Its probabilities are the run's. It is read by `jaxclf predict FILE IMAGES` and, in Python, by
    jaxclf.load_exported("FILE").predict("cat.jpg"). For PyTorch, use `jaxclf weights export`.

    Example: jaxclf export runs/photos photos.jaxclf

    Attributes:
      run: the RUN folder.
      file: the file to write.
      platforms: where it shall run; none of them needs to be here.
      overwrite: replace FILE.
    """

    run: RunArgument
    file: FileArgument
    platforms: tuple[Literal["cpu", "cuda", "tpu", "rocm"], ...] = ("cpu", "cuda", "tpu")
    overwrite: bool = False

    def __call__(self) -> int:
        from jaxclf.cli.terminal import Terminal
        from jaxclf.inference.export import check_target, export_classifier
        from jaxclf.run.load import load_run

        if not self.platforms:
            raise UsageError("platforms is empty; name some of cpu, cuda, tpu, rocm")
        check_target(self.file, overwrite=self.overwrite)
        run = load_run(self.run)
        spec, temperature = run.spec, run.temperature
        path = export_classifier(
            self.file,
            run.model,
            run.variables,
            preprocess=spec.preprocess,
            classes=run.classes,
            temperature=temperature,
            multi_label=spec.multi_label,
            threshold=spec.threshold,
            platforms=self.platforms,
            overwrite=self.overwrite,
        )
        calibration = f"calibrated with temperature {temperature:.3g}" if temperature != 1.0 else "not calibrated"
        what = f"{spec.arch}, {len(run.classes)} classes, {spec.preprocess.image_size} px, {spec.precision}"
        terminal = Terminal()
        terminal.note(f"{what}, {calibration}, for {', '.join(self.platforms)}")
        terminal.note(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
        return 0


@command
class Weights:
    """Weights by name and in files: list, show, convert, export. See `jaxclf weights --help`.

    Example: jaxclf weights list
    """

    def __call__(self) -> int:
        raise UsageError("weights needs one of list, show, convert, export; see `jaxclf weights --help`")


@command
class Completion:
    """Print a script for your shell, with which the tabulator key completes commands, flags and their values.

    Where bash-completion is installed, bash finds it by itself in ~/.local/share/bash-completion/completions/jaxclf.
    Otherwise, and in zsh, save it anywhere and name it in ~/.bashrc or ~/.zshrc, after "source".

    Example: jaxclf completion bash > jaxclf-completion.sh

    Attributes:
      shell: the shell it is for.
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional, tyro.conf.arg(metavar="{bash,zsh}")]

    def __call__(self) -> int:
        print(completion_script(self.shell, COMMANDS), end="")  # noqa: T201
        return 0


COMMANDS: dict[str, Callable[..., Work]] = {
    "fit": Fit,
    "find-lr": FindLr,
    "sweep": Sweep,
    "evaluate": Evaluate,
    "predict": Predict,
    "export": Export,
    "check": Check,
    "cost": Cost,
    "report": Report,
    "weights": Weights,
    "demo": Demo,
    "completion": Completion,
}
