"""`jaxclf weights list | show | convert | export`: what weights there are, what is in a file, and getting them out."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from jaxclf.cli.arguments import RunArgument, UsageError, Work, positional

SourceArgument = Annotated[str, tyro.conf.Positional, positional("ARCH_OR_FILE")]
FileArgument = Annotated[str, tyro.conf.Positional, positional("FILE")]


def list_(arch: str | None = None) -> Work:
    """The weights that are known by name: bundled ones, and the best ImageNet weights of each architecture on the hub.

    Top-1 is as published, on ImageNet's validation set; jaxclf has not measured it anew.

    Example: jaxclf weights list --arch resnet50

    Args:
      arch: only this architecture.
    """
    return functools.partial(_list, arch)


def _list(arch: str | None) -> int:
    from jaxclf.weights.catalogue import bundled_config, bundled_names, known_weights

    rows = known_weights(arch)
    table = Table("--arch", "--weights", "top-1", "at", "licence", "origin", box=None, pad_edge=False)
    for name in bundled_names():
        config = bundled_config(name)
        if arch in (None, config.arch):
            size = f"{config.preprocess.image_size} px"
            table.add_row(config.arch, name, "", size, "see `weights show`", "bundled: Tiny ImageNet, needs no network")
    for row in rows:
        table.add_row(row.arch, row.hub_id, f"{row.top1:.2f}", f"{row.test_size} px", row.licence, row.origin)
    _console().print(table)
    return 0


def show(source: SourceArgument, /) -> Work:
    """What an architecture is and which weights there are for it, or what a weights file holds and what it fits.

    Example: jaxclf weights show model.safetensors

    Args:
      source: an architecture, bundled weights, or a .safetensors or .pth file.
    """
    return functools.partial(_show, source)


def _show(source: str) -> int:
    from jaxclf.models import get_config, list_archs
    from jaxclf.weights.catalogue import bundled_config, bundled_names, bundled_path, known_weights

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
        lines += [("weights", f"{name} (bundled)") for name in bundled_names() if bundled_config(name).arch == source]
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


def convert(source: str, /, file: FileArgument, arch: str, overwrite: bool = False) -> Work:
    """Read weights of any known form, check them against an architecture, and write them as .safetensors.

    The names and layouts are torchvision's and timm's; a .json beside the file describes them. Nothing in a .pth file
    is executed.

    Example: jaxclf weights convert checkpoint.pth resnet50.safetensors --arch resnet50

    Args:
      source: a .safetensors or .pth file, bundled weights, a hub id, or "auto".
      file: the .safetensors file to write.
      arch: the architecture the weights must fit.
      overwrite: replace FILE.
    """
    return functools.partial(_convert, source, file, arch, overwrite)


def _convert(source: str, file: str, arch: str, overwrite: bool) -> int:
    from jaxclf.models import get_config
    from jaxclf.weights.files import save_state_dict
    from jaxclf.weights.load import load_weights
    from jaxclf.weights.state_dict import to_state_dict

    try:
        get_config(arch)
    except ValueError as error:
        raise UsageError(str(error)) from error
    variables, config = load_weights(source, arch)
    path = save_state_dict(file, to_state_dict(variables, arch), config, overwrite=overwrite)
    _console().print(f"wrote {path} and {path.with_suffix('.json')}", markup=False)
    return 0


def export(run: RunArgument, file: FileArgument, /, overwrite: bool = False) -> Work:
    """Write a run's classifier as .safetensors for PyTorch: `load_state_dict(.., strict=True)` of torchvision or timm.

    A .json beside the file holds the class names and the preprocessing, and lets `jaxclf fit --weights FILE` start from
    it. Only the linear head has a counterpart in torchvision and timm; the concat head's entries are named head.*.

    Example: jaxclf weights export runs/photos photos.safetensors

    Args:
      run: the RUN folder.
      file: the .safetensors file to write.
      overwrite: replace FILE.
    """
    return functools.partial(_export, run, file, overwrite)


def _export(run_folder: str, file: str, overwrite: bool) -> int:
    import jax

    from jaxclf.config import PretrainedConfig
    from jaxclf.run.load import load_run
    from jaxclf.weights.files import save_state_dict
    from jaxclf.weights.state_dict import to_state_dict

    run = load_run(run_folder)
    state_dict = to_state_dict(jax.device_get(run.variables), run.spec.arch)
    config = PretrainedConfig(
        arch=run.spec.arch,
        preprocess=run.spec.preprocess,
        classes=run.classes,
        licence=run.summary.get("licence", "unknown"),
        origin=f"fine-tuned with jaxclf from {run.summary['weights']}",
    )
    path = save_state_dict(file, state_dict, config, overwrite=overwrite)
    _console().print(f"wrote {path} and {path.with_suffix('.json')}", markup=False)
    return 0


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


DESCRIPTION = "Weights by name and in files: what there is, what is in a file, and getting them in and out."
COMMANDS: dict[str, Callable[..., Work]] = {"list": list_, "show": show, "convert": convert, "export": export}
