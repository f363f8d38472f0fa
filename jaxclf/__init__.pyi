# Made by scripts/make_stub.py from the tables in __init__.py.

from jaxclf import augment as augment
from jaxclf import metrics as analysis
from jaxclf import metrics as metrics
from jaxclf import plots as plots
from jaxclf import schedules as schedules
from jaxclf._jax import enable_compilation_cache as enable_compilation_cache
from jaxclf.augment import cutmix as cutmix
from jaxclf.augment import make_augment as make_augment
from jaxclf.augment import make_pipeline as make_pipeline
from jaxclf.augment import mixup as mixup
from jaxclf.config import Phase as Phase
from jaxclf.config import Preprocess as Preprocess
from jaxclf.config import PretrainedConfig as PretrainedConfig
from jaxclf.config import Recipe as Recipe
from jaxclf.config import Settings as Settings
from jaxclf.config import frozen_prefix as frozen_prefix
from jaxclf.data.activations import ActivationDataset as ActivationDataset
from jaxclf.data.activations import ActivationLoader as ActivationLoader
from jaxclf.data.batches import Batch as Batch
from jaxclf.data.batches import LoaderState as LoaderState
from jaxclf.data.cache import BadImage as BadImage
from jaxclf.data.check.report import check_data as check_data
from jaxclf.data.devices import data_mesh as data_mesh
from jaxclf.data.loader import Loader as Loader
from jaxclf.data.loader import loader_for as loader_for
from jaxclf.data.manifest import dataset_key as dataset_key
from jaxclf.data.manifest import record_fingerprints as record_fingerprints
from jaxclf.data.order import balanced_order as balanced_order
from jaxclf.data.order import epoch_order as epoch_order
from jaxclf.data.order import k_folds as k_folds
from jaxclf.data.order import stratified_split as stratified_split
from jaxclf.data.sources import ArrayDataset as ArrayDataset
from jaxclf.data.sources import ImageFolder as ImageFolder
from jaxclf.data.splits import fold_datasets as fold_datasets
from jaxclf.data.splits import open_data as open_data
from jaxclf.data.splits import split_dataset as split_dataset
from jaxclf.data.tables import CsvTable as CsvTable
from jaxclf.data.tfds import TfdsSource as TfdsSource
from jaxclf.inference.export import export_classifier as export_classifier
from jaxclf.inference.export import load_exported as load_exported
from jaxclf.inference.features import extract_features as extract_features
from jaxclf.inference.gradcam import grad_cam as grad_cam
from jaxclf.inference.predict import evaluate as evaluate
from jaxclf.inference.predict import make_predict_step as make_predict_step
from jaxclf.inference.predict import predict as predict
from jaxclf.inference.recalibrate import recalibrate_batch_norm as recalibrate_batch_norm
from jaxclf.inference.tta import predict_tta as predict_tta
from jaxclf.metrics import Predictions as Predictions
from jaxclf.metrics import classification_report as classification_report
from jaxclf.metrics import compare_predictions as compare_predictions
from jaxclf.metrics import confusion_matrix as confusion_matrix
from jaxclf.metrics import cross_fit_temperature as cross_fit_temperature
from jaxclf.metrics import most_confused as most_confused
from jaxclf.metrics import most_correct as most_correct
from jaxclf.metrics import most_incorrect as most_incorrect
from jaxclf.metrics import most_uncertain as most_uncertain
from jaxclf.metrics import probabilities as probabilities
from jaxclf.metrics import search_threshold as search_threshold
from jaxclf.metrics import summarize as summarize
from jaxclf.metrics import top_losses as top_losses
from jaxclf.models import Classifier as Classifier
from jaxclf.models import create_classifier as create_classifier
from jaxclf.models import init_variables as init_variables
from jaxclf.models import list_archs as list_archs
from jaxclf.models import trees as trees
from jaxclf.report import make_report as make_report
from jaxclf.report import write_report as write_report
from jaxclf.run.checkpoint_file import restore_checkpoint as restore_checkpoint
from jaxclf.run.checkpoint_file import save_checkpoint as save_checkpoint
from jaxclf.run.load import load_run as load_run
from jaxclf.run.observer import Interrupted as Interrupted
from jaxclf.run.observer import StopSignals as StopSignals
from jaxclf.run.run import run_recipe as run_recipe
from jaxclf.run.snapshots import restore_snapshot as restore_snapshot
from jaxclf.run.snapshots import save_snapshot as save_snapshot
from jaxclf.training import losses as losses
from jaxclf.training import optimizer as groups
from jaxclf.training.cost import freezing_costs as freezing_costs
from jaxclf.training.cost import step_cost as step_cost
from jaxclf.training.events import Epoch as Epoch
from jaxclf.training.events import Snapshot as Snapshot
from jaxclf.training.events import Step as Step
from jaxclf.training.fit import FitResult as FitResult
from jaxclf.training.fit import NonFiniteLoss as NonFiniteLoss
from jaxclf.training.fit import fit as fit
from jaxclf.training.fit import train as train
from jaxclf.training.losses import make_loss as make_loss
from jaxclf.training.lr_curve import LRBand as LRBand
from jaxclf.training.lr_curve import LRCurve as LRCurve
from jaxclf.training.lr_curve import suggest_lr as suggest_lr
from jaxclf.training.lr_finder import find_lr as find_lr
from jaxclf.training.lr_finder import find_lr_band as find_lr_band
from jaxclf.training.optimizer import discriminative_lrs as discriminative_lrs
from jaxclf.training.optimizer import layer_groups as layer_groups
from jaxclf.training.optimizer import make_optimizer as make_optimizer
from jaxclf.training.program import make_program as make_program
from jaxclf.training.solve import solve_head as solve_head
from jaxclf.training.state import TrainState as TrainState
from jaxclf.training.state import create_train_state as create_train_state
from jaxclf.training.step import make_train_step as make_train_step
from jaxclf.training.sweep import HeadTraining as HeadTraining
from jaxclf.training.sweep import Sweep as Sweep
from jaxclf.training.sweep import SweepGrid as SweepGrid
from jaxclf.training.sweep import sweep_heads as sweep_heads
from jaxclf.weights import Pretrained as Pretrained
from jaxclf.weights import convert_state_dict as convert_state_dict
from jaxclf.weights import load_weights as load_weights
from jaxclf.weights import merge_variables as merge_variables
from jaxclf.weights import to_state_dict as to_state_dict

__version__: str

__all__ = [
    "ActivationDataset",
    "ActivationLoader",
    "ArrayDataset",
    "BadImage",
    "Batch",
    "Classifier",
    "CsvTable",
    "Epoch",
    "FitResult",
    "HeadTraining",
    "ImageFolder",
    "Interrupted",
    "LRBand",
    "LRCurve",
    "Loader",
    "LoaderState",
    "NonFiniteLoss",
    "Phase",
    "Predictions",
    "Preprocess",
    "Pretrained",
    "PretrainedConfig",
    "Recipe",
    "Settings",
    "Snapshot",
    "Step",
    "StopSignals",
    "Sweep",
    "SweepGrid",
    "TfdsSource",
    "TrainState",
    "__version__",
    "analysis",
    "augment",
    "balanced_order",
    "check_data",
    "classification_report",
    "compare_predictions",
    "confusion_matrix",
    "convert_state_dict",
    "create_classifier",
    "create_train_state",
    "cross_fit_temperature",
    "cutmix",
    "data_mesh",
    "dataset_key",
    "discriminative_lrs",
    "enable_compilation_cache",
    "epoch_order",
    "evaluate",
    "export_classifier",
    "extract_features",
    "find_lr",
    "find_lr_band",
    "fit",
    "fold_datasets",
    "freezing_costs",
    "frozen_prefix",
    "grad_cam",
    "groups",
    "init_variables",
    "k_folds",
    "layer_groups",
    "list_archs",
    "load_exported",
    "load_run",
    "load_weights",
    "loader_for",
    "losses",
    "make_augment",
    "make_loss",
    "make_optimizer",
    "make_pipeline",
    "make_predict_step",
    "make_program",
    "make_report",
    "make_train_step",
    "merge_variables",
    "metrics",
    "mixup",
    "most_confused",
    "most_correct",
    "most_incorrect",
    "most_uncertain",
    "open_data",
    "plots",
    "predict",
    "predict_tta",
    "probabilities",
    "recalibrate_batch_norm",
    "record_fingerprints",
    "restore_checkpoint",
    "restore_snapshot",
    "run_recipe",
    "save_checkpoint",
    "save_snapshot",
    "schedules",
    "search_threshold",
    "solve_head",
    "split_dataset",
    "step_cost",
    "stratified_split",
    "suggest_lr",
    "summarize",
    "sweep_heads",
    "to_state_dict",
    "top_losses",
    "train",
    "trees",
    "write_report",
]
