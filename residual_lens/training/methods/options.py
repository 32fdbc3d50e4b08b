"""What a method may be told besides its name."""

from dataclasses import dataclass

from residual_lens.errors import InputError


@dataclass(frozen=True)
class Options:
    """Options of all methods; each reads those that concern it.

    Example:
        >>> Options(units=("L5",), seed=1)
        Options(units=('L5',), explained_variance=0.9, scales='randn', keep_mean=False, rank=8, seed=1)
    """

    units: tuple[str, ...] = ()
    """Of ResiDual: which units, as `Units.select` takes them; by default all that the variant is for."""
    explained_variance: float = 0.9
    """Of "residual*": the share of its variance that a head keeps."""
    scales: str = "randn"
    """Where λ starts: `"randn"` as in the paper, `"ones"` or `"spectrum"`."""
    keep_mean: bool = False
    """Whether what learns λ adds the mean back, which the paper does not."""
    rank: int = 8
    """Of "lora": the rank of what is added to a weight."""
    seed: int = 0
    """Of what starts at random."""

    def __post_init__(self) -> None:
        if not 0 < self.explained_variance <= 1:
            raise InputError(f"explained_variance is a share in (0, 1], got {self.explained_variance}.")
        if self.scales not in ("randn", "ones", "spectrum"):
            raise InputError(f"scales must be 'randn', 'ones' or 'spectrum', got {self.scales!r}.")
        if self.rank < 1:
            raise InputError(f"rank starts at 1, got {self.rank}.")
