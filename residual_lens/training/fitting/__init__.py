"""A training run: its checks, Lightning's Trainer and module, its checkpoints and what it reached."""

from residual_lens.training.fitting.progress import TrainingLog
from residual_lens.training.fitting.train import evaluate, train_adapter

__all__ = ["TrainingLog", "evaluate", "train_adapter"]
