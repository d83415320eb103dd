"""The page on profiles: its tables add up to what `world.needs` computes."""

from dm_utils.chapters.profiles import charts, experiment
from dm_utils.world import needs
from dm_utils.world.profiles import profile_names


def test_the_chart_stacks_what_the_table_adds_up():
    terms, table = experiment.memory_terms(), needs.table().set_index("profile")
    for profile, part in terms[terms["section"] == "Section 4"].groupby("profile"):
        assert needs.size(part["GB"].sum() * needs.GB) == table.loc[profile, "GPU memory"]
    spec = charts.memory(terms, experiment.machines()).to_dict()
    drawn = {row["profile"] for data in spec["datasets"].values() for row in data if "profile" in row}
    assert drawn == set(profile_names())


def test_every_term_of_the_free_tier_is_told_and_adds_up():
    for (_, what), part in experiment.free_tier().groupby(["profile", "of"], sort=False):
        amounts = part["GB"].tolist()
        terms = amounts[:-2] if what == "GPU memory" else amounts[:-1]  # sums are rounded to 0.01 GB each
        assert abs(sum(terms) - amounts[len(terms)]) <= 0.005 * (len(terms) + 1)


def test_a_machine_with_more_memory_fits_no_narrower_saes():
    limits = experiment.widest_fitting().set_index("profile").replace({"–": "0", "all": "1e9"})
    widths = limits.apply(lambda column: column.str.replace(",", "").astype(float))
    by_memory = [machine.name for machine in sorted(needs.MACHINES, key=lambda machine: (machine.gpu, machine.ram))]
    assert (widths[by_memory].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
