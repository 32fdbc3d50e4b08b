"""Atoms: what they are refused for, and what is left of them beside those that were picked."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.errors import InputError, MismatchError

# Atoms that were stored in half precision have norms this close to 1.
UNIT_NORM_TOL = 1e-3
# Rows of a frame are this close to orthonormal.
FRAME_TOL = 1e-4
# An atom whose distance to the span of others is below this is in it: rounding of what was given, some hundred terms.
INDEPENDENT = {torch.float32: 1e-5, torch.float64: 1e-12}


class Atoms:
    """A dictionary beside the orthonormal directions of the atoms that were picked from it.

    A shallow copy goes its own way: tensors are replaced, not changed.

    Attributes:
        given: `[atom d_out]`, as given.
        frame: `[rank d_out]`, float64, or None where data are given in `d_out` dimensions.
        picked: rows of `given`, in order.
        directions: `[pick d_out]`, float64: the picked atoms, orthonormalised in order.
        triangle: `[pick pick]`, float64: the picked atoms are `triangle @ directions`.
        factors: `[atom]`, float64: what scores are multiplied by.
    """

    def __init__(
        self,
        given: Float[Tensor, "atom d_out"],
        frame: Float[Tensor, "rank d_out"] | None,
        dtype: torch.dtype,
        *,
        coherence_penalty: float | int = 0.0,
    ) -> None:
        self.given = given
        self.frame = None if frame is None else frame.double()
        self.picked: tuple[int, ...] = ()
        self.directions = given.new_zeros(0, given.shape[1], dtype=torch.float64)
        self.triangle = self.directions.new_zeros(0, 0)
        self.factors = self.directions.new_ones(len(given))
        self._penalty = coherence_penalty
        self._tolerance = INDEPENDENT[dtype]

    def seen(self, vectors: Float[Tensor, "vector d_out"]) -> Float[Tensor, "vector rank"]:
        """What the data can see of vectors: their part in the frame."""
        return vectors if self.frame is None else vectors @ self.frame.mT

    def deflated(self, atoms: Int[Tensor, "vector"]) -> Float[Tensor, "vector d_out"]:
        """What is left of atoms beside the picked ones, float64; zeros for an atom in their span."""
        left = self.given[atoms].double()
        left -= (left @ self.directions.mT) @ self.directions
        within = torch.linalg.vector_norm(left, dim=1, keepdim=True) <= self._tolerance
        return left.masked_fill_(within, 0.0)

    def left_of(self, atoms: Int[Tensor, "vector"]) -> Float[Tensor, "vector rank"]:
        """What the data can see of the same."""
        return self.seen(self.deflated(atoms))

    def pick(self, atom: int) -> None:
        """Add an atom that does not lie in the span of the picked ones."""
        whole = self.given[atom].double()
        # Twice is enough for orthogonality to the last digit (Giraud et al. 2005).
        left = whole - (self.directions @ whole) @ self.directions
        left = left - (self.directions @ left) @ self.directions
        self.picked = (*self.picked, atom)
        self.directions = torch.cat([self.directions, left[None] / torch.linalg.vector_norm(left)])
        self.triangle = torch.cat([torch.nn.functional.pad(self.triangle, (0, 1)), (self.directions @ whole)[None]])
        if self._penalty:
            cosines = (self.given.double() @ whole).abs_().clamp_max_(1.0)
            self.factors = torch.minimum(self.factors, 1 - self._penalty * cosines)


def coarser(x: Float[Tensor, "sample rank"], atoms: Float[Tensor, "atom d_out"]) -> torch.dtype:
    """The dtype whose rounding is in what was given: float32, unless all is float64."""
    return torch.float64 if x.dtype == atoms.dtype == torch.float64 else torch.float32


def check(
    x: Float[Tensor, "sample rank"],
    atoms: Float[Tensor, "atom d_out"],
    n_picks: int,
    frame: Float[Tensor, "_ _"] | None,
    coherence_penalty: float | int = 0.0,
) -> None:
    """Refuse what cannot be pursued."""
    named = {"x": x, "atoms": atoms} | ({} if frame is None else {"frame": frame})
    for name, tensor in named.items():
        if tensor.dtype not in INDEPENDENT:
            raise InputError(f"{name} must be float32 or float64, got {tensor.dtype}: convert it with .float().")
        if tensor.numel() == 0:
            raise InputError(f"{name} is empty: got shape {list(tensor.shape)}.")
        if not all(entry.isfinite() for entry in tensor.aminmax()):
            raise InputError(f"{name} has values that are NaN or infinite: find where they come from first.")
        if tensor.device != x.device:
            raise MismatchError(f"{name} is on {tensor.device} and x on {x.device}: move them to one device.")
    if n_picks < 1:
        raise InputError(f"n_picks must be at least 1, got {n_picks}.")
    if not 0 <= coherence_penalty <= 1:
        raise InputError(f"coherence_penalty is a share of the score, from 0 to 1, got {coherence_penalty}.")
    norms = torch.linalg.vector_norm(atoms, dim=1)
    worst = int((norms - 1).abs().argmax())
    if abs(float(norms[worst]) - 1) > UNIT_NORM_TOL:
        raise InputError(
            f"Atoms must have norm 1, atom {worst} has {float(norms[worst]):.4g}: leave out zeros, normalise the rest."
        )
    if frame is None:
        if x.shape[1] != atoms.shape[1]:
            raise MismatchError(
                f"x has {x.shape[1]} features and the atoms {atoms.shape[1]}: pass samples of the atoms' space, or "
                "coordinates with their frame."
            )
        return
    if frame.shape != (x.shape[1], atoms.shape[1]):
        raise MismatchError(
            f"The frame of x {list(x.shape)} among atoms {list(atoms.shape)} is {[x.shape[1], atoms.shape[1]]}, "
            f"got {list(frame.shape)}."
        )
    gap = (frame @ frame.mT - torch.eye(len(frame), dtype=frame.dtype, device=frame.device)).abs().max()
    if gap > FRAME_TOL:
        raise InputError(
            f"Rows of a frame must be orthonormal, these are not by {float(gap):.2g}: orthonormalise them."
        )
