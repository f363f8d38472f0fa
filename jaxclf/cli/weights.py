"""`jaxclf weights list | show | convert | export`: what weights there are, what is in a file, and getting them out."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from jaxclf.cli.arguments import FileArgument, RunArgument, Work, check_arch, command


@command
class List:
    """The weights that are known by name: bundled ones, and the best ImageNet weights of each architecture on the hub.

    Top-1 is as published, on ImageNet's validation set; jaxclf has not measured it anew.

    Example: jaxclf weights list --arch resnet50

    Attributes:
      arch: only this architecture.
    """

    arch: str | None = None

    def __call__(self) -> int:
        from jaxclf.weights.catalogue import bundled_config, bundled_names, known_weights

        rows = known_weights(self.arch)
        table = Table("--arch", "--weights", "top-1", "at", "licence", "origin", box=None, pad_edge=False)
        for name in bundled_names():
            config = bundled_config(name)
            if self.arch in (None, config.arch):
                size, origin = f"{config.preprocess.image_size} px", "bundled: Tiny ImageNet, needs no network"
                table.add_row(config.arch, name, "", size, "see `weights show`", origin)
        for row in rows:
            table.add_row(row.arch, row.hub_id, f"{row.top1:.2f}", f"{row.test_size} px", row.licence, row.origin)
        _console().print(table)
        return 0


@command
class Show:
    """What an architecture is and which weights there are for it, or what a weights file holds and what it fits.

    Example: jaxclf weights show model.safetensors

    Attributes:
      source: an architecture, bundled weights, or a .safetensors or .pth file.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ARCH_OR_FILE")]

    def __call__(self) -> int:
        from jaxclf.models import get_config, list_archs
        from jaxclf.weights.catalogue import bundled_config, bundled_names, bundled_path, known_weights

        source = self.source
        lines: list[tuple[str, object]] = []
        if source in list_archs():
            config = get_config(source)
            lines += [("architecture", source), ("block", config.block), ("blocks per stage", config.stage_sizes)]
            lines += [("channels after each stage", tuple(config.out_width(stage) for stage in range(4)))]
            lines += [("parameters (1000 classes)", f"{_num_parameters(source):,}")]
            lines += [
                ("weights", f"{row.hub_id} (top-1 {row.top1:.2f} at {row.test_size} px, {row.licence})")
                for row in known_weights(source)
            ]
            bundled = [name for name in bundled_names() if bundled_config(name).arch == source]
            lines += [("weights", f"{name} (bundled)") for name in bundled]
        elif source in bundled_names():
            about = bundled_config(source)
            lines += _describe_file(bundled_path(source))
            lines += [("origin", about.origin), ("terms", about.licence), ("image size", about.preprocess.image_size)]
        else:
            lines += _describe_file(Path(source))
        width = max(len(name) for name, _ in lines)
        for name, value in lines:
            _console().print(f"{name:{width}s}  {value}", markup=False)
        return 0


def _describe_file(path: Path) -> list[tuple[str, object]]:
    from jaxclf.weights.files import file_sha256, read_state_dict
    from jaxclf.weights.state_dict import fitting_archs

    state_dict = read_state_dict(path)
    archs = fitting_archs(state_dict)
    head = state_dict.get("fc.weight")
    values = sum(array.size for array in state_dict.values())
    kinds = sorted({str(array.dtype) for array in state_dict.values()})
    return [
        ("file", path),
        ("fits", " or ".join(archs) or "no architecture that jaxclf knows"),
        ("classes", head.shape[0] if head is not None else "no head"),
        ("entries", f"{len(state_dict)} ({', '.join(kinds)}), {values:,} values"),
        ("sha256", file_sha256(path)),
    ]


def _num_parameters(arch: str) -> int:
    import jax

    from jaxclf.models import create_classifier, init_variables
    from jaxclf.models.trees import num_parameters

    return num_parameters(
        jax.eval_shape(lambda key: init_variables(create_classifier(arch, 1000), key), jax.random.key(0))["params"]
    )


@command
class Convert:
    """Read weights of any known form, check them against an architecture, and write them as .safetensors.

    The names and layouts are torchvision's and timm's; a .json beside the file describes them. Nothing in a .pth file
    is executed.

    Example: jaxclf weights convert checkpoint.pth resnet50.safetensors --arch resnet50

    Attributes:
      source: a .safetensors or .pth file, bundled weights, a hub id, or "auto".
      file: the .safetensors file to write.
      arch: the architecture the weights must fit.
      overwrite: replace FILE.
    """

    source: Annotated[str, tyro.conf.Positional]
    file: FileArgument
    arch: str
    overwrite: bool = False

    def __call__(self) -> int:
        from jaxclf.weights.files import save_state_dict
        from jaxclf.weights.load import load_weights
        from jaxclf.weights.state_dict import to_state_dict

        check_arch(self.arch)
        variables, config = load_weights(self.source, self.arch)
        path = save_state_dict(self.file, to_state_dict(variables, self.arch), config, overwrite=self.overwrite)
        _console().print(f"wrote {path} and {path.with_suffix('.json')}", markup=False)
        return 0


@command
class Export:
    """Write a run's classifier as .safetensors for PyTorch: `load_state_dict(.., strict=True)` of torchvision or timm.

    A .json beside the file holds the class names and the preprocessing, and lets `jaxclf fit --weights FILE` start from
    it. Only the linear head has a counterpart in torchvision and timm; the concat head's entries are named head.*.

    Example: jaxclf weights export runs/photos photos.safetensors

    Attributes:
      run: the RUN folder.
      file: the .safetensors file to write.
      overwrite: replace FILE.
    """

    run: RunArgument
    file: FileArgument
    overwrite: bool = False

    def __call__(self) -> int:
        import jax

        from jaxclf.config import PretrainedConfig
        from jaxclf.run.load import load_run
        from jaxclf.weights.files import save_state_dict
        from jaxclf.weights.state_dict import to_state_dict

        run = load_run(self.run)
        state_dict = to_state_dict(jax.device_get(run.variables), run.spec.arch)
        config = PretrainedConfig(
            arch=run.spec.arch,
            preprocess=run.spec.preprocess,
            classes=run.classes,
            licence=run.summary.get("licence", "unknown"),
            origin=f"fine-tuned with jaxclf from {run.summary['weights']}",
        )
        path = save_state_dict(self.file, state_dict, config, overwrite=self.overwrite)
        _console().print(f"wrote {path} and {path.with_suffix('.json')}", markup=False)
        return 0


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


DESCRIPTION = "Weights by name and in files: what there is, what is in a file, and getting them in and out."
COMMANDS: dict[str, Callable[..., Work]] = {"list": List, "show": Show, "convert": Convert, "export": Export}
