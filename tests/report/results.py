"""Made-up results of a demo run."""

from typing import Any

ACCURACIES = {
    "digits": (0.101, 0.202, 0.303, 0.909, 0.404),
    "attributes:colour": (0.951, 0.952, 0.953, 0.954, 0.955),
    "attributes:shape@sketch": (0.5, 0.25, 0.5, 0.125, 0.0),
}
METHODS = ("zero-shot", "coarse", "residual*", "residual", "linear")


def made_up_results(n_tasks: int = 3) -> dict[str, Any]:
    """By task, in the schema of results.json."""
    results = {}
    for index, (task, accuracies) in enumerate(list(ACCURACIES.items())[:n_tasks]):
        methods = {
            name: {
                "accuracy": accuracy,
                "parameters": 1000 * column + (index if name == "coarse" else 0),
                "seconds": 1.0,
            }
            for column, (name, accuracy) in enumerate(zip(METHODS, accuracies, strict=True))
        }
        results[task] = {"n_test": 500 + index, "chance": 0.1, "methods": methods}
    return results
