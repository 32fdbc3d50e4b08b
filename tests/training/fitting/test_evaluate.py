"""Accuracy: of any kind of samples, in eval mode, and of nothing that is not a number."""

import pytest
import torch

from residual_lens.errors import InputError
from residual_lens.training import Coarse, LinearAdapter, LiveSamples, evaluate
from residual_lens.training.cached import coordinates
from residual_lens.training.fitting import train as training
from residual_lens.training.methods.probe import LinearProbe
from tests.training.toy import toy_split


def test_coordinates_are_evaluated_where_the_model_is(hvit, classifier, validation, monkeypatch):
    adapter, places = Coarse(3, 3), []
    cached = coordinates(adapter, validation)

    def recorded(split, *_):
        places.append((split.base.device.type, split.labels.device.type))
        return 30

    monkeypatch.setattr(training, "hits", recorded)
    assert evaluate(hvit.to("meta"), classifier, cached, adapter=adapter.to("meta")) == 1
    assert places == [("meta", "meta")]


class Looking:
    """Samples that say in which modes they are embedded."""

    def __init__(self, samples: LiveSamples, *modules: torch.nn.Module) -> None:
        self.labels, self._samples, self._modules = samples.labels, samples, modules
        self.modes: set[bool] = set()

    def embed(self, hvit, rows):
        self.modes |= {part.training for module in self._modules for part in module.modules()}
        return self._samples.embed(hvit, rows)


def test_evaluation_is_in_eval_mode_and_leaves_modes_as_they_were(hvit, classifier):
    adapter = Coarse(3, 3)
    hvit.train()
    next(hvit.source.children()).eval()
    before = [module.training for module in hvit.modules()]
    samples = Looking(LiveSamples(*toy_split(hvit, 6, seed=1)), hvit, adapter)
    evaluate(hvit, classifier, samples, adapter=adapter)
    assert samples.modes == {False}
    assert [module.training for module in hvit.modules()] == before
    assert set(before) == {True, False}
    assert adapter.training


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_accuracy_of_what_is_not_finite_is_refused(hvit, classifier, validation, value):
    adapter = LinearAdapter(hvit.cfg.d_out)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.fill_(value)
    for samples in (validation, coordinates(adapter, validation)):
        with pytest.raises(InputError, match="that LinearAdapter gives have no finite length or logits"):
            evaluate(hvit, classifier, samples, adapter=adapter)


def test_accuracy_of_logits_that_are_not_finite_is_refused(hvit, classifier, validation):
    probe = LinearProbe(classifier)
    with torch.no_grad():
        probe.bias[1] = float("nan")
    with pytest.raises(InputError, match="that LinearProbe gives have no finite length or logits"):
        evaluate(hvit, classifier, validation, adapter=probe)
