"""A model's name that leads nowhere is refused at once, with what to name instead."""

import pytest

from fastlab.checkpoints import load
from fastlab.spec import ModelShape, grid
from fastlab.spec.hub import check_source


@pytest.mark.parametrize("name", ["./nope", "data/checkpoints/nope", "/nope", "~/nope"])
def test_a_folder_that_is_missing(name):
    words = rf"model='{name}': no such folder; presets are article, gpt2, .* owner/name"
    with pytest.raises(ValueError, match=words):
        grid(model=name)
    with pytest.raises(ValueError, match=r"no such folder; a hub name is owner/name"):
        check_source(name, needs_weights=True)


@pytest.mark.parametrize("weights", ["random:0", "trained"])
def test_a_hub_that_cannot_be_reached(weights):
    words = "model='nobody/nothing' is no folder here, and huggingface.co cannot be"
    with pytest.raises(OSError, match=words) as error:
        grid(model="nobody/nothing", weights=weights)
    assert ("presets are" in str(error.value)) == (weights != "trained")


def test_a_preset_has_no_weights():
    with pytest.raises(OSError, match="'gpt2' is a preset, which has no weights"):
        grid(model="gpt2", weights="trained")


def test_the_folder_of_a_training_session(tmp_path):
    (tmp_path / "final").mkdir()
    with pytest.raises(ValueError, match=r"holds no config.json$"):
        load(tmp_path)
    (tmp_path / "final" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"json: the model is in .*/final$"):
        load(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"the models are in .*/final, .*/other$"):
        ModelShape.from_config(tmp_path)
    with pytest.raises(ValueError, match="is a file; give the folder"):
        load(tmp_path / "final" / "config.json")
