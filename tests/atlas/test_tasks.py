"""A store with labels is a task: by prompts where there is a text tower, else by means that know no measured image."""

import numpy as np
import pytest
import torch

from residual_lens.activations import Store, encode
from residual_lens.atlas.tasks import labelled_stores, store_names
from residual_lens.data.images import ImageSet, open_images
from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked import HookedViT
from residual_lens.text import zero_shot_classifier
from residual_lens.training.runs.classifiers import class_means, templates_of
from tests.activations.stores import encoded, image_set, wrapped
from tests.tolerances import FLOAT32_TOL, assert_close


@pytest.fixture(scope="module")
def shipped() -> HookedViT:
    return HookedViT.from_pretrained("attribute-clip")


@pytest.fixture(scope="module")
def stores(shipped, tmp_path_factory):
    """Scenes without labels, colours, digits."""
    folder = tmp_path_factory.mktemp("stores")
    opened = []
    for name, limit in (("attributes", 6), ("attributes:colour", 27), ("digits", 12)):
        encode(shipped, open_images(name, limit=limit), folder / f"{name[-5:]}.h5").close()
        opened.append(Store(folder / f"{name[-5:]}.h5"))
    yield opened
    for store in opened:
        store.close()


def test_stores_with_labels_are_tasks_by_prompts(shipped, stores):
    colours, digits = labelled_stores(stores, shipped)
    assert [(task.name, task.kind, len(task.rows)) for task in (colours, digits)] == [
        ("colour", "text", 27),
        ("digits", "text", 12),
    ]
    assert colours.store is stores[1]
    assert torch.equal(colours.labels, stores[1].labels)
    templates = templates_of("auto", "attributes:colour")
    expected = zero_shot_classifier(shipped.encode_text, stores[1].provenance.classes, templates=templates)
    assert_close(colours.classifier.weights, expected.weights, FLOAT32_TOL)
    (plain,) = labelled_stores(stores[2:], shipped, templates="{}")
    bare = zero_shot_classifier(shipped.encode_text, stores[2].provenance.classes, templates=["{}"])
    assert_close(plain.classifier.weights, bare.weights, FLOAT32_TOL)


def test_class_means_are_of_every_other_image_and_the_rest_is_measured(shipped, stores):
    (task,) = labelled_stores(stores[1:2], shipped, classifier="means")
    store = stores[1]
    seen = [row for label in range(9) for row in (store.labels == label).nonzero().flatten()[::2].tolist()]
    assert task.kind == "means"
    assert sorted([*seen, *task.rows.tolist()]) == list(range(27))
    expected = class_means(store.embeddings(seen), store.labels[seen], store.provenance.classes, logit_scale=1.0)
    assert_close(task.classifier.weights, expected.weights, FLOAT32_TOL)


def test_a_model_without_a_text_tower_has_class_means(tmp_path):
    hvit = wrapped("rotary-timm")
    with encoded(hvit, image_set(20), tmp_path / "a.h5") as store:
        (task,) = labelled_stores([store], hvit)
        assert task.kind == "means"
        assert bool((task.labels >= 0).all())
        # 16 labelled images, of 6, 5 and 5.
        assert task.labels.bincount().tolist() == [3, 2, 2]
        with pytest.raises(UnsupportedModelError, match=r"no text tower"):
            labelled_stores([store], hvit, classifier="text")


def test_stores_that_cannot_be_tasks_are_left_out_and_impossible_ones_refused(shipped, stores, tmp_path):
    assert labelled_stores(stores[:1], shipped) == ()
    hvit = wrapped("rotary-timm")
    labels = np.where(np.arange(8) < 4, 0, 2)
    source = image_set(8)._source
    one_class = ImageSet(name="one", split="train", classes=("a",), source=source, labels=np.zeros(8, int))
    lacking = ImageSet(name="two", split="train", classes=("a", "b", "c"), source=source, labels=labels)
    with encoded(hvit, one_class, tmp_path / "one.h5") as store:
        assert labelled_stores([store], hvit) == ()
    with encoded(hvit, lacking, tmp_path / "two.h5") as store:
        assert labelled_stores([store], hvit, classifier="none") == ()
        with pytest.raises(InputError, match=r"two\.h5 has no image of 1 of its 3 classes, such as 'b'"):
            labelled_stores([store], hvit)
    of_each = ImageSet(name="few", split="train", classes=("a", "b", "c"), source=source, labels=np.arange(3))
    with (
        encoded(hvit, of_each, tmp_path / "few.h5") as store,
        pytest.raises(InputError, match=r"few\.h5 has 0 images with a label to measure, and a task at least 2"),
    ):
        labelled_stores([store], hvit)


def test_stores_have_names_that_tell_them_apart(tmp_path):
    hvit = wrapped("rotary-timm")

    def store(file: str, name: str, split: str = "train") -> Store:
        images = image_set(3, name=name)
        images.split = split
        return encoded(hvit, images, tmp_path / file)

    a, b, c = store("a.h5", "attributes:colour"), store("b.h5", "attributes:colour", "test"), store("c.h5", "digits")
    again = store("d.h5", "digits")
    assert store_names([a, c]) == ["colour", "digits"]
    assert store_names([a, b]) == ["attributes:colour/train", "attributes:colour/test"]
    assert store_names([c, again]) == ["c", "d"]
    assert store_names([c, c]) == [str(tmp_path / "c.h5")] * 2
