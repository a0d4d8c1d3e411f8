import numpy as np
import pytest

from dnabert2_jax.artifacts.adapter import load_adapter
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.convert.hugging_face import save_hugging_face
from dnabert2_jax.convert.peft import save_peft
from dnabert2_jax.errors import UserError
from dnabert2_jax.recipes.finetuning import finetune
from tests.recipes.helpers import score

pytestmark = pytest.mark.usefixtures("promotion", "undrawn")


@pytest.mark.parametrize(("method", "batching"), [("full", "by_length"), ("lora", "packed")])
def test_a_classifier_that_reads_means_is_saved_without_a_pooler_and_scores_what_was_reported(
    home, make_run, tmp_path, method, batching
):
    run = make_run(training={"method": method, "pooling": "mean", "batching": batching})
    result = finetune(run, tmp_path / "run")
    model = load_model(result.model)
    assert model.head.pooling == "mean"
    assert model.params.keys() == {"encoder", "classifier"}
    for directory in filter(None, (result.model, result.adapter)):
        _, scores = score(directory, home / "test.csv")
        assert scores["confusion_matrix"] == result.test["confusion_matrix"]
        np.testing.assert_allclose(scores["loss"], result.test["loss"], rtol=1e-4)
    with pytest.raises(UserError, match="reads means over tokens"):
        save_hugging_face(tmp_path / "hf", model)
    if result.adapter is not None:
        with pytest.raises(UserError, match="reads means over tokens"):
            save_peft(tmp_path / "peft", load_adapter(result.adapter))


def test_a_probe_has_no_pooler_to_read(make_run):
    with pytest.raises(UserError, match=r"training\.pooling cls is for full and lora"):
        make_run(training={"method": "probe", "pooling": "cls"})
    assert make_run(training={"method": "probe"}).training.head_pooling == "mean"
