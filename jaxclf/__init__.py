"""jaxclf: fine-tune an ImageNet-pretrained ResNet on your own photos, in JAX.

Every name below is imported when it is first used, so `import jaxclf` costs next to nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public name of a module -> where it is.
_MODULES = {
    "analysis": "jaxclf.metrics",
    "augment": "jaxclf.augment",
    "groups": "jaxclf.training.optimizer",
    "losses": "jaxclf.training.losses",
    "metrics": "jaxclf.metrics",
    "plots": "jaxclf.plots",
    "schedules": "jaxclf.schedules",
    "trees": "jaxclf.models.trees",
}
#: Any other public name -> the module that defines it.
_EXPORTS = {
    "ActivationDataset": "jaxclf.data.activations",
    "ActivationLoader": "jaxclf.data.activations",
    "ArrayDataset": "jaxclf.data.sources",
    "BadImage": "jaxclf.data.cache",
    "Batch": "jaxclf.data.batches",
    "Classifier": "jaxclf.models",
    "CsvTable": "jaxclf.data.tables",
    "Epoch": "jaxclf.training.events",
    "FitResult": "jaxclf.training.fit",
    "HeadTraining": "jaxclf.training.sweep",
    "ImageFolder": "jaxclf.data.sources",
    "Interrupted": "jaxclf.run.observer",
    "LRBand": "jaxclf.training.lr_curve",
    "LRCurve": "jaxclf.training.lr_curve",
    "Loader": "jaxclf.data.loader",
    "LoaderState": "jaxclf.data.batches",
    "NonFiniteLoss": "jaxclf.training.fit",
    "Phase": "jaxclf.config",
    "Predictions": "jaxclf.metrics",
    "Preprocess": "jaxclf.config",
    "Pretrained": "jaxclf.weights",
    "PretrainedConfig": "jaxclf.config",
    "Recipe": "jaxclf.config",
    "Settings": "jaxclf.config",
    "Snapshot": "jaxclf.training.events",
    "Step": "jaxclf.training.events",
    "StopSignals": "jaxclf.run.observer",
    "Sweep": "jaxclf.training.sweep",
    "SweepGrid": "jaxclf.training.sweep",
    "TfdsSource": "jaxclf.data.tfds",
    "TrainState": "jaxclf.training.state",
    "balanced_order": "jaxclf.data.order",
    "check_data": "jaxclf.data.check.report",
    "classification_report": "jaxclf.metrics",
    "compare_predictions": "jaxclf.metrics",
    "confusion_matrix": "jaxclf.metrics",
    "convert_state_dict": "jaxclf.weights",
    "create_classifier": "jaxclf.models",
    "create_train_state": "jaxclf.training.state",
    "cross_fit_temperature": "jaxclf.metrics",
    "cutmix": "jaxclf.augment",
    "data_mesh": "jaxclf.data.devices",
    "dataset_key": "jaxclf.data.manifest",
    "discriminative_lrs": "jaxclf.training.optimizer",
    "enable_compilation_cache": "jaxclf._jax",
    "epoch_order": "jaxclf.data.order",
    "evaluate": "jaxclf.inference.predict",
    "export_classifier": "jaxclf.inference.export",
    "extract_features": "jaxclf.inference.features",
    "find_lr": "jaxclf.training.lr_finder",
    "find_lr_band": "jaxclf.training.lr_finder",
    "fit": "jaxclf.training.fit",
    "fold_datasets": "jaxclf.data.splits",
    "freezing_costs": "jaxclf.training.cost",
    "frozen_prefix": "jaxclf.config",
    "grad_cam": "jaxclf.inference.gradcam",
    "init_variables": "jaxclf.models",
    "k_folds": "jaxclf.data.order",
    "layer_groups": "jaxclf.training.optimizer",
    "list_archs": "jaxclf.models",
    "load_exported": "jaxclf.inference.export",
    "loader_for": "jaxclf.data.loader",
    "load_run": "jaxclf.run.load",
    "load_weights": "jaxclf.weights",
    "make_augment": "jaxclf.augment",
    "make_loss": "jaxclf.training.losses",
    "make_optimizer": "jaxclf.training.optimizer",
    "make_pipeline": "jaxclf.augment",
    "make_predict_step": "jaxclf.inference.predict",
    "make_program": "jaxclf.training.program",
    "make_report": "jaxclf.report",
    "make_train_step": "jaxclf.training.step",
    "merge_variables": "jaxclf.weights",
    "mixup": "jaxclf.augment",
    "most_confused": "jaxclf.metrics",
    "most_correct": "jaxclf.metrics",
    "most_incorrect": "jaxclf.metrics",
    "most_uncertain": "jaxclf.metrics",
    "open_data": "jaxclf.data.splits",
    "predict": "jaxclf.inference.predict",
    "predict_tta": "jaxclf.inference.tta",
    "probabilities": "jaxclf.metrics",
    "recalibrate_batch_norm": "jaxclf.inference.recalibrate",
    "record_fingerprints": "jaxclf.data.manifest",
    "restore_snapshot": "jaxclf.run.snapshots",
    "restore_checkpoint": "jaxclf.run.checkpoint_file",
    "run_recipe": "jaxclf.run.run",
    "save_snapshot": "jaxclf.run.snapshots",
    "save_checkpoint": "jaxclf.run.checkpoint_file",
    "search_threshold": "jaxclf.metrics",
    "solve_head": "jaxclf.training.solve",
    "split_dataset": "jaxclf.data.splits",
    "step_cost": "jaxclf.training.cost",
    "stratified_split": "jaxclf.data.order",
    "suggest_lr": "jaxclf.training.lr_curve",
    "summarize": "jaxclf.metrics",
    "sweep_heads": "jaxclf.training.sweep",
    "to_state_dict": "jaxclf.weights",
    "top_losses": "jaxclf.metrics",
    "train": "jaxclf.training.fit",
    "write_report": "jaxclf.report",
}
__all__ = ["__version__", *sorted({**_MODULES, **_EXPORTS})]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = importlib.import_module(_MODULES[name])
    elif name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
    else:
        raise AttributeError(f"module 'jaxclf' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
