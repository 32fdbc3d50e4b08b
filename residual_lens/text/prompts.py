"""Prompts: templates filled with names, and one embedding for all the prompts of a name."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from residual_lens.errors import InputError

EncodeText = Callable[[Sequence[str]], Float[Tensor, "text d_out"]]
"""Texts to unit-norm embeddings, such as `hvit.encode_text`."""
BATCH = 256
"""Prompts in a forward pass of the text tower, or those of one name if they are more."""


def fill(templates: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    """Every name's prompts: each template with the name in it.

    Raises:
        InputError: no templates, or one that has not got one `{}`.

    >>> fill(["a {} thing", "{}"], ["red", "{x}"])
    [['a red thing', 'red'], ['a {x} thing', '{x}']]
    """
    if isinstance(templates, str) or not templates or any(template.count("{}") != 1 for template in templates):
        raise InputError(f"templates must be a list of texts with one '{{}}' each, got {templates!r}.")
    return [[template.replace("{}", name) for template in templates] for name in names]


@torch.no_grad()
def ensemble(
    encode_text: EncodeText, prompts: Sequence[Sequence[str]], *, progress: bool = False
) -> Float[Tensor, "class d_out"]:
    """One unit-norm embedding for each group of prompts (Radford et al. 2021, §3.1.4).

    The unit-norm embeddings of a group are averaged and normalised again, in float32 at least.

    Args:
        encode_text: the text tower.
        prompts: at least one group, each of at least one text.
        progress: show a progress bar.
    """
    rows: list[Tensor] = []
    n_prompts = sum(len(group) for group in prompts)
    with tqdm(total=n_prompts, desc="texts", unit="text", disable=not progress) as bar:
        for batch in _batches(prompts):
            embedding = encode_text([text for group in batch for text in group])
            exact = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
            rows += [normalize(part.mean(dim=0), dim=-1) for part in exact.split([len(group) for group in batch])]
            bar.update(len(embedding))
    return torch.stack(rows)


def _batches(prompts: Sequence[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
    """Whole groups, as many as fit."""
    batch: list[Sequence[str]] = []
    size = 0
    for group in prompts:
        if batch and size + len(group) > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(group)
        size += len(group)
    if batch:
        yield batch
