"""Contexts entered and left by many threads at once."""

import copy
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from residual_lens.hooked.vit import HookedViT
from tests.hooked.running import unchanged
from tests.hooked.test_leaks import attached, halved
from tests.tolerances import FLOAT32_TOL, assert_close

THREADS, ROUNDS = 8, 60


@pytest.fixture
def busy() -> Iterator[None]:
    """Threads that take turns as often as Python can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def in_threads(work) -> list:
    """`work(number)` in every thread, all starting together."""
    start = Barrier(THREADS)

    def run(number: int):
        start.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


@pytest.mark.usefixtures("busy")
def test_contexts_of_many_threads_leave_the_model_as_it_was(hvit, images):
    weights = {key: value.clone() for key, value in hvit.state_dict().items()}
    before = hvit(images)
    everything = [(lambda name: name.startswith("blocks.1"), unchanged)]

    def work(number: int) -> None:
        for turn in range(ROUNDS):
            with hvit.hooks(everything, bwd_hooks=everything if turn % 2 else []):
                if turn % 20 == 0:
                    hvit(images)
                if turn % 3 == 0:
                    hvit.hook_dict["hook_pooled"].add_hook(unchanged)
            if turn % 10 == 0:
                with pytest.raises(ZeroDivisionError), hvit.hooks(everything):
                    raise ZeroDivisionError
        hvit.decompose(images)

    in_threads(work)
    assert len(hvit.hook_dict["hook_pooled"].fwd_hooks) == THREADS * ROUNDS // 3
    hvit.reset_hooks()
    assert attached(hvit) == 0
    assert hvit.context_level == 0
    assert torch.equal(hvit(images), before)
    assert all(torch.equal(value, weights[key]) for key, value in hvit.state_dict().items())


def test_hooks_belong_to_the_model_and_not_to_a_thread(hvit, images):
    plain = hvit(images)
    with hvit.hooks([("hook_image_embed", halved)]):
        outputs = in_threads(lambda number: hvit(images))
    assert all(torch.equal(output, plain / 2) for output in outputs)


def test_wrappers_of_one_source_keep_the_edits_of_threads_apart(hvit, images):
    plain = hvit(images)

    def work(number: int):
        own = HookedViT.wrap(hvit.source)
        with own.hooks([("hook_image_embed", lambda x, hook: x * number)]):
            return own(images)

    for number, output in enumerate(in_threads(work)):
        assert_close(output, plain * number, FLOAT32_TOL)
    assert torch.equal(hvit(images), plain)


def test_a_context_may_be_left_by_another_thread(hvit, images):
    before = hvit(images)
    contexts = [hvit.hooks([("hook_image_embed", halved)]) for _ in range(THREADS)]
    for context in contexts:
        context.__enter__()
    in_threads(lambda number: contexts[number].__exit__(None, None, None))
    assert attached(hvit) == 0
    assert hvit.context_level == 0
    assert torch.equal(hvit(images), before)


def test_a_model_may_be_copied_while_threads_hook_it(hvit, images):
    before = hvit(images)

    def work(number: int):
        if number:
            for _ in range(ROUNDS):
                with hvit.hooks([(lambda name: True, halved)]):
                    pass
            return None
        return [copy.deepcopy(hvit) for _ in range(4)]

    for twin in in_threads(work)[0]:
        assert attached(twin) == 0
        assert torch.equal(twin(images), before)
