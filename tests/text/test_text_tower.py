"""What a dictionary asks of a model: which words its tokenizer knows, and a digest of its text tower alone."""

import pytest
import torch
from open_clip import SimpleTokenizer

from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.vit import HookedViT
from residual_lens.text import Dictionary, templates
from residual_lens.text.encoding import distinct_prompts, refuse_unknown_words
from tests.text.encoder import WordEncoder
from tests.tiny_models import tiny_clip, tiny_tower


class Pieces(WordEncoder):
    """CLIP's own tokenizer, which has pieces for every word."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenize = SimpleTokenizer(context_length=12)


class Masked(WordEncoder):
    """Ids and mask, as tokenizers of Hugging Face give them."""

    def tokenize(self, texts):
        ids = super().tokenize(texts)
        return {"input_ids": ids, "attention_mask": (ids > 0).to(torch.int32)}


def test_a_tokenizer_of_pieces_knows_every_word():
    refuse_unknown_words(Pieces(), {"x": ["Zyzzyva, naïve—œuvre 東京 don't 42!"]})


def test_texts_beyond_the_length_of_a_tokenizer_are_told_apart_by_what_it_keeps(caplog):
    long = " ".join(["word"] * 11)
    kept, _ = distinct_prompts(Pieces(), {f"{long} a": [f"{long} a"], f"{long} b": [f"{long} b"], "b": ["b"]})
    assert list(kept) == [f"{long} a", "b"]
    assert "reads 1 texts as earlier ones" in caplog.text


def test_ids_with_a_mask_are_read_alike():
    encoder = Masked()
    with pytest.raises(InputError, match="does not know 1 of these texts' 2 words: 'zebra'"):
        refuse_unknown_words(encoder, {"x": ["red zebra"]})
    kept, key = distinct_prompts(encoder, {"red": ["red"], "Red": ["Red"], "blue": ["blue"]})
    assert list(kept) == ["red", "blue"]
    assert key != distinct_prompts(WordEncoder(), {"red": ["red"], "blue": ["blue"]})[1]


@torch.no_grad()
def test_the_digest_of_the_text_tower_changes_with_it_alone():
    hvit = HookedViT.wrap(tiny_clip("ViT-B-16"))
    digest = hvit.text_fingerprint()
    assert HookedViT.wrap(tiny_clip("ViT-B-16")).text_fingerprint() == digest
    hvit.source.visual.proj.mul_(2)
    assert hvit.text_fingerprint() == digest
    for weights in (hvit.source.token_embedding.weight, hvit.source.text_projection):
        weights.mul_(2)
        assert hvit.text_fingerprint() != digest
        weights.div_(2)
    assert hvit.text_fingerprint() == digest


@pytest.mark.parametrize(("build", "missing"), [(tiny_tower, "text tower"), (tiny_clip, "tokenizer")])
def test_a_model_that_takes_no_texts_is_refused(build, missing):
    hvit = HookedViT.wrap(build("ViT-B-16"))
    for ask in (hvit.tokenize, hvit.encode_text, lambda texts: Dictionary.of_texts(hvit, texts, cache=None)):
        with pytest.raises(UnsupportedModelError, match=f"has no {missing}"):
            ask(["red"])


def test_templates_are_open_clips_as_texts():
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    written = [template.replace("{}", "star fish") for template in templates("imagenet")]
    assert written == [template("star fish") for template in OPENAI_IMAGENET_TEMPLATES]
    with pytest.raises(InputError, match=r"No templates 'imagnet', only close: 'imagenet': \['imagenet', 'imagenet-s"):
        templates("imagnet")
