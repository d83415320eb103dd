"""The page on profiles: its tables add up to what `world.needs` computes."""

from dm_utils.chapters.profiles import charts, experiment
from dm_utils.world import needs
from dm_utils.world.profiles import load_profile, profile_names
from dm_utils.world.saes import catalog


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


def test_each_selection_is_told_with_its_number_widths_l0s_and_first_names():
    for name in ("lab", "gpt2-small"):
        profile = load_profile(name)
        found = experiment.chosen(profile).set_index("selection")
        assert list(found.index) == list(needs.SELECTIONS)
        for selection, row in found.iterrows():
            refs = needs.select(profile, selection)
            widths, l0s = sorted({ref.d_sae for ref in refs}), sorted(ref.l0 for ref in refs)
            assert row["SAEs"] == len(refs)
            assert row["widths"] == (f"{widths[0]:,} to {widths[-1]:,}" if widths[0] < widths[-1] else f"{widths[0]:,}")
            assert row["L0"] == (f"{l0s[0]:g} to {l0s[-1]:g}" if l0s[0] < l0s[-1] else f"{l0s[0]:g}")
            names = ", ".join(ref.id for ref in refs[:4])
            assert row["ids"] == (f"{names} and {len(refs) - 4} more" if len(refs) > 4 else names)


def test_every_term_of_a_profiles_memory_stands_in_its_section():
    terms = experiment.memory_terms().set_index(["profile", "section", "term"])["GB"]
    need = needs.needs(load_profile("gpt2-small"))
    for section, held in (("Section 4", need.widest), ("Section 5.3", need.compared)):
        known = {"the model": need.model_bytes, "SAEs": held, "forward pass and engine": need.working}
        assert terms["gpt2-small", section].to_dict() == {term: value / needs.GB for term, value in known.items()}
    machines = experiment.machines().set_index("machine")["GB"]
    assert machines.to_dict() == {machine.name: machine.gpu / needs.GB for machine in needs.MACHINES}


def test_the_widest_that_fits_is_the_last_width_that_the_need_allows():
    row = experiment.widest_fitting().set_index("profile").loc["gpt2-small"]
    profile = load_profile("gpt2-small").model_copy(update={"max_width": None})
    widths = sorted({ref.d_sae for ref in catalog(profile) if ref.layer == profile.layer})
    for machine in needs.MACHINES:
        fits = [width for width in widths if needs.needs(profile.with_overrides(max_width=width)).fits(machine)]
        known = "–" if not fits else "all" if len(fits) == len(widths) else f"{max(fits):,}"
        assert row[machine.name] == known
