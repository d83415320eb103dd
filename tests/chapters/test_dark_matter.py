"""Section 4.3 fits the SAEs that share an L0; where there are none of two widths, it is refused before anything is measured."""

import pytest
from small_world import parameters, write_model, write_sae, write_text

from dm_utils.base.errors import ParameterError
from dm_utils.chapters.s04_3_dark_matter import experiment
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.world.profiles import load_profile


def study_of(root, *saes):
    """A study of a world whose TopK SAEs have these (k, width)."""
    write_model(root / "model")
    write_text(root / "mine.txt")
    for k, width in saes:
        write_sae(root / f"saes/topk_{k}_{width}", k, width)
    return Study(load_profile("lab", **parameters(root)), Store(root / "store"))


def test_saes_are_grouped_by_the_l0_on_their_labels(tmp_path):
    found = experiment.suites(study_of(tmp_path, (2, 64), (2, 128), (3, 256), (8, 64), (8, 128)))
    ids = {near: [ref.id for ref in refs] for near, refs in found.items()}
    assert ids == {2: ["topk_2_64", "topk_2_128"], 8: ["topk_8_64", "topk_8_128"]}, "3 is nearer to 4, and alone there"


@pytest.mark.parametrize("saes", [[(4, 64)], [(2, 64), (8, 64)], [(2, 64), (8, 128)]])
def test_without_two_widths_near_one_l0_it_is_refused_before_anything_is_measured(tmp_path, saes):
    study = study_of(tmp_path, *saes)
    with pytest.raises(ParameterError, match="two or more widths near one L0"):
        experiment.suites(study)
    assert "model" not in vars(study) and not (tmp_path / "store").exists()
