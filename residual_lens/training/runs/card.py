"""The model card that goes with an adapter: what it is, what it was trained on, what it reached."""

from residual_lens.training.runs.result import RunResult


def model_card(result: RunResult) -> str:
    """Markdown behind a YAML head, as the Hugging Face hub reads it.

    Args:
        result: of the run that trained the adapter.
    """
    config = result.config
    rows = {
        "Model": config.model,
        "Data": f"{config.data}: {result.n_train:,} training, {result.n_validation:,} validation, "
        f"{result.n_test:,} test images, {result.n_classes} classes",
        "Method": config.method,
        "Parameters": f"{result.parameters:,}",
        "Classifier": result.classifier,
        "Seed": config.seed,
        **{f"`{name}`": value for name, value in config.options.items()},
        "Best epoch": f"{result.best_epoch} of {result.epochs}",
        "Validation accuracy": f"{result.validation_accuracy:.2%}",
        "Test accuracy": f"{result.test_accuracy:.2%}",
    }
    table = "\n".join(f"| {name} | {str(value).replace('|', '&#124;')} |" for name, value in rows.items())
    return f"""---
library_name: residual_lens
pipeline_tag: image-classification
tags: [residual_lens, residual]
---
# {config.method} of {config.model} on {config.data}

An adapter of [residual_lens](https://arxiv.org/abs/2411.00246) for a frozen vision transformer.

| | |
|---|---|
{table}

```python
from residual_lens import HookedViT
from residual_lens.training.methods import load_adapter

hvit = HookedViT.from_pretrained({config.model!r})
adapter = load_adapter("adapter", hvit)  # this folder
with adapter.attached(hvit, path={result.path!r}):
    embeddings = hvit(images)  # compared with the run's classifier by cosine
```
"""
