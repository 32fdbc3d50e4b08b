"""What the paper's released code gets wrong (design.md, section 3): each fault is written out, caught, and not ours.

Every check takes an implementation. It passes on ours and must fail on the one with the fault: a check that a fault
passes proves nothing.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from residual_lens.bases import Basis
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import ResiDual
from residual_lens.interventions.components import components_to_reach
from residual_lens.interventions.rescaling import Rescaling
from residual_lens.selection import unit_output_correlation
from residual_lens.spectral import linear_dimension, spectral_cosine, two_nn
from residual_lens.training import cache_samples, train_adapter
from residual_lens.training.methods.output import SpectralOutput
from residual_lens.units import Unit
from tests.interventions.tiny_bases import bases_for
from tests.reference.dimension import matrix_two_nearest, naive_two_nn
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close
from tests.training.toy import toy_classifier, toy_split

D = 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def square_basis() -> Basis:
    """All directions of the space: Φ is square, so that Φ and Φᵀ fit alike."""
    components = torch.linalg.qr(draw(D, D, seed=1).double()).Q.float()
    return Basis(draw(D, seed=2), components, torch.arange(D, 0, -1.0), float(sum(range(D + 1))))


def fails(check: Callable[..., None], faulty: object) -> None:
    """The check catches the fault."""
    with pytest.raises(AssertionError):
        check(faulty)


Edit = Callable[[Basis, Tensor, Tensor], Tensor]
"""Basis, λ and samples to edited samples."""


def check_that_components_are_scaled(edit: Edit) -> None:
    """One step along component k from the mean comes out as λ_k steps along it."""
    basis, scales = square_basis(), torch.arange(1.0, D + 1)
    edited = edit(basis, scales, basis.mean + basis.components)
    assert_close(edited, scales[:, None] * basis.components, FLOAT32_TOL)


def test_a_square_basis_is_not_taken_for_its_transpose():
    """Released: for a square basis `x Φᵀ diag(λ) Φᵀ`: scaled components are written back along other directions."""

    def ours(basis: Basis, scales: Tensor, x: Tensor) -> Tensor:
        rescaling = Rescaling([Unit.named("0_mlp_out")], [D], 0, D)
        rescaling.fill([basis])
        frame = rescaling.direct_frame()
        return rescaling.rescale(x[:, None], frame, scales, pass_rest=True, keep_mean=False)[:, 0]

    def released(basis: Basis, scales: Tensor, x: Tensor) -> Tensor:
        return (x - basis.mean) @ basis.components.mT * scales @ basis.components.mT

    check_that_components_are_scaled(ours)
    fails(check_that_components_are_scaled, released)


def test_the_output_adapter_scales_components():
    """Released: the output adapter multiplies the embedding's raw coordinates by λ, whatever its components are."""

    def ours(basis: Basis, scales: Tensor, x: Tensor) -> Tensor:
        output = SpectralOutput(basis, scales="ones")
        output.scales.data.copy_(scales)
        return output.mapped(x)

    def released(basis: Basis, scales: Tensor, x: Tensor) -> Tensor:
        return (x - basis.mean) * scales

    check_that_components_are_scaled(ours)
    fails(check_that_components_are_scaled, released)


def check_a_share_that_only_all_components_reach(dimension: Callable[[Tensor, float], int]) -> None:
    variances = torch.tensor([0.3, 0.2, 0.1])
    # In float32 they sum to a little less than the total that they make up.
    assert dimension(variances, 1.0) == 3
    assert dimension(variances, 0.8) == 2


def test_a_share_of_variance_that_is_never_exceeded_is_no_single_component():
    """Released: "explained variance > t" that never holds gives k = 1, the first entry of a mask that is all false."""

    def ours(variances: Tensor, share: float) -> int:
        basis = Basis(torch.zeros(3), torch.eye(3), variances, float(variances.double().sum()))
        k = components_to_reach(basis, share, "L0H0")
        assert k == int(linear_dimension(variances, threshold=share))
        return k

    def released(variances: Tensor, share: float) -> int:
        return int((variances.cumsum(0) / variances.sum() > share).int().argmax()) + 1

    check_a_share_that_only_all_components_reach(ours)
    fails(check_a_share_that_only_all_components_reach, released)
    # Where components are missing no k is right, and 1 is wrong: it says so.
    cut = Basis(torch.zeros(3), torch.eye(3)[:2], torch.tensor([0.3, 0.2]), 0.6)
    with pytest.raises(InputError, match=r"holds 2 components with 83.3% of the variance, which does not reach 90.0%"):
        components_to_reach(cut, 0.9, "L0H0")


def check_a_permuted_basis(similarity: Callable[[Tensor, Tensor], Tensor]) -> None:
    basis = square_basis().components
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    assert_close(similarity(basis, basis), torch.tensor(1.0), FLOAT32_TOL)
    assert_close(similarity(basis, -basis[order]), torch.tensor(1.0), FLOAT32_TOL)


def test_without_weights_the_spectral_cosine_matches_all_the_same():
    """Released: without weights it compares components of equal index only, so that order decides."""

    def released(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(dim=-1).abs().norm() / len(x) ** 0.5

    check_a_permuted_basis(spectral_cosine)
    fails(check_a_permuted_basis, released)


def samples_with_copies() -> Tensor:
    """A 5-dimensional cloud of which a quarter of the rows are copies of others."""
    x = draw(1500, 5, seed=3).double()
    return torch.cat([x, x[:500]])


def check_that_copies_do_not_count(dimension: Callable[[Tensor], float]) -> None:
    assert 4.5 < dimension(samples_with_copies()) < 5.5


def test_two_nn_leaves_copies_out():
    """Released: 0.3 for 5-dimensional data with a quarter of the rows duplicated: the nearest is at distance 0."""

    def ours(x: Tensor) -> float:
        return two_nn(x).dimension

    def released(x: Tensor) -> float:
        # A distance of 0 must be something for the ratio to exist.
        return naive_two_nn(matrix_two_nearest(x).clamp_min(1e-4))

    check_that_copies_do_not_count(ours)
    fails(check_that_copies_do_not_count, released)
    assert released(samples_with_copies()) < 1


class LargestTensor(TorchDispatchMode):
    """How many numbers the largest tensor has that any operation makes on this thread."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return made


def check_that_memory_stays_below_all_pairs(dimension: Callable[[Tensor], object]) -> None:
    x = draw(4000, 5, seed=4)
    with LargestTensor() as largest:
        dimension(x)
    # At least the samples were seen: the measurement measures.
    assert x.numel() <= largest.numbers < len(x) ** 2 / 4


def test_two_nn_never_holds_all_pairs():
    """Released: an n × n matrix of distances, which at 30,000 samples is 3.6 GB."""
    check_that_memory_stays_below_all_pairs(two_nn)
    fails(check_that_memory_stays_below_all_pairs, lambda x: torch.cdist(x, x).topk(3, largest=False))


Scores = Callable[[Tensor, Tensor], Tensor]
"""Contributions `[sample unit d_out]` and output `[sample d_out]` to a score of each unit."""


def check_that_scores_are_correlations(scores: Scores) -> None:
    values = draw(200, 3, 4, seed=5) * torch.tensor([30.0, 1.0, 0.01])[:, None]
    output = values.sum(dim=1)
    found = scores(torch.cat([values, output[:, None], -output[:, None]], dim=1), output)
    assert bool((found.abs() <= 1 + FLOAT32_TOL).all())
    assert_close(found[-2:].double(), torch.tensor([1.0, -1.0]).double(), FLOAT32_TOL)


def test_scores_are_bounded_by_one():
    """Released: "Spearman" scores of 3.4: ranks are not centred, which adds 3 to every correlation."""

    def released(values: Tensor, output: Tensor) -> Tensor:
        ranks, of_output = (x.argsort(dim=0).argsort(dim=0).double() for x in (values, output))
        products = (ranks * of_output[:, None]).mean(dim=0)
        return (products / (ranks.std(dim=0) * of_output.std(dim=0))).mean(dim=-1)

    check_that_scores_are_correlations(unit_output_correlation)
    fails(check_that_scores_are_correlations, released)


def global_functions() -> dict[str, object]:
    """What stands behind every name of torch that a model calls through."""
    homes = {"torch": torch, "functional": functional, "Tensor": Tensor, "Module": nn.Module}
    homes |= {name: getattr(nn, name) for name in ("MultiheadAttention", "Linear", "LayerNorm")}
    return {f"{home}.{name}": value for home, where in homes.items() for name, value in vars(where).items()}


def check_that_torch_is_left_as_it_was(use: Callable[[HookedViT, Tensor], object], hvit: HookedViT) -> None:
    # What is imported on first use belongs to torch itself, and is not counted.
    images, labels = toy_split(hvit, 30, seed=6)
    residual = ResiDual.from_bases(bases_for(hvit))
    samples = cache_samples(hvit, images, labels)
    train_adapter(residual, hvit, toy_classifier(hvit), train=samples, validation=samples, max_epochs=1)
    before = global_functions()
    use(hvit, images)
    after = global_functions()
    assert [name for name in before if after.get(name) is not before[name]] == []


def test_no_function_of_torch_is_replaced_after_use(hvit):
    """Released: it patches a function of torch globally, and does not put it back after training."""

    def ours(hvit: HookedViT, images: Tensor) -> None:
        residual = ResiDual.from_bases(bases_for(hvit))
        for path in ("direct", "stream"):
            with residual.attached(hvit, path):
                hvit.run_with_cache(images)
        samples = cache_samples(hvit, images, torch.arange(len(images)) % 3)
        train_adapter(residual, hvit, toy_classifier(hvit), train=samples, validation=samples, max_epochs=1)

    attention = functional.scaled_dot_product_attention

    def released(hvit: HookedViT, images: Tensor) -> None:
        functional.scaled_dot_product_attention = lambda *args, **kwargs: attention(*args, **kwargs)
        hvit(images)

    check_that_torch_is_left_as_it_was(ours, hvit)
    try:
        with pytest.raises(AssertionError, match="scaled_dot_product_attention"):
            check_that_torch_is_left_as_it_was(released, hvit)
    finally:
        functional.scaled_dot_product_attention = attention


EPOCHS = 3
Training = Callable[[HookedViT, ResiDual, Tensor, Tensor], object]


def check_that_the_backbone_runs_once_an_image(training: Training, hvit: HookedViT) -> None:
    images, labels = toy_split(hvit, 30, seed=7)
    residual = ResiDual.from_bases(bases_for(hvit))
    before, seen = residual.scales.detach().clone(), 0

    def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal seen
        seen += len(args[0])

    # The first thing that every image passes through, whichever way it is run.
    with hvit.source.conv1.register_forward_pre_hook(count):
        training(hvit, residual, images, labels)
    assert_changed(residual.scales, before)
    assert seen == len(images)


def test_the_frozen_backbone_is_not_run_again_every_epoch(hvit):
    """Released: every epoch runs the frozen backbone over all images, for embeddings that never change."""
    classifier = toy_classifier(hvit)

    def ours(hvit: HookedViT, residual: ResiDual, images: Tensor, labels: Tensor) -> None:
        samples = cache_samples(hvit, images, labels)
        log = train_adapter(
            residual, hvit, classifier, train=samples, validation=samples, max_epochs=EPOCHS, patience=EPOCHS
        )
        assert len(log.train_loss) == EPOCHS

    def released(hvit: HookedViT, residual: ResiDual, images: Tensor, labels: Tensor) -> None:
        optimizer = torch.optim.SGD([residual.scales], lr=0.1)
        for _ in range(EPOCHS):
            with residual.attached(hvit):
                functional.cross_entropy(classifier.logits(hvit(images)), labels).backward()
            optimizer.step()

    check_that_the_backbone_runs_once_an_image(ours, hvit)
    with pytest.raises(AssertionError):
        check_that_the_backbone_runs_once_an_image(released, hvit)
