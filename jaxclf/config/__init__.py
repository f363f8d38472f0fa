"""What a run is, as frozen dataclasses; the names of a network's modules and cuts; JSON both ways."""

from jaxclf.config.as_json import from_dict, from_json, to_json
from jaxclf.config.names import (
    CUTS,
    METRICS,
    MODULES,
    CutName,
    check_count,
    check_frozen,
    cut_prefix,
    cycle_boundaries,
    frozen_prefix,
    module_path,
)
from jaxclf.config.recipe import (
    MAX_BATCH,
    AugmentName,
    Interpolation,
    Phase,
    Preprocess,
    PretrainedConfig,
    Recipe,
    ResizeName,
    Settings,
)

__all__ = [
    "CUTS",
    "MAX_BATCH",
    "METRICS",
    "MODULES",
    "AugmentName",
    "CutName",
    "Interpolation",
    "Phase",
    "Preprocess",
    "PretrainedConfig",
    "Recipe",
    "ResizeName",
    "Settings",
    "check_count",
    "check_frozen",
    "cut_prefix",
    "cycle_boundaries",
    "from_dict",
    "from_json",
    "frozen_prefix",
    "module_path",
    "to_json",
]
