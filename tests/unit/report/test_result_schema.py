"""What dashboards read in result.json stays: no field goes or changes its type unless SCHEMA is raised."""

import pytest
import resultschema
from resultschema import added, broken, read, schema


def test_no_field_of_the_kept_schema_is_gone_or_of_another_type():
    assert resultschema.KEPT.exists(), "keep the new schema: python tests/support/resultschema.py"
    assert broken(read(), schema()) == [], "raise SCHEMA in harness/tcelab/run/resultfile.py"


def test_what_is_new_is_kept_as_well():
    assert added(read(), schema()) == [], "keep it: python tests/support/resultschema.py"


def test_the_kept_schema_holds_what_a_dashboard_reads():
    kept = read()
    assert kept["Result"]["schema"] == ["int"]
    assert set(kept["Verdict"]["result"]) == {'"pass"', '"finding"', '"could-not-judge"'}
    assert kept["Finding"]["liobn"] == ["int", "none"]
    assert kept["Result"]["runs"] == ["list of Result"]
    assert "optional" in kept["Moment"]["call"]
    assert len(kept) > 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda now: now["Finding"].pop("ioba"), ["Finding.ioba is gone"]),
        (lambda now: now.pop("Moment"), None),
        (lambda now: now["Finding"].update(ioba=["none", "str"]), ["Finding.ioba was int, none and is none, str"]),
        (lambda now: now["Finding"].update(step=["int", "none"]), ["Finding.step may now be absent or null"]),
        (lambda now: now["Verdict"].update(result=['"finding"']), None),
        (lambda now: now["Finding"].update(colour=["str"]), []),
        (lambda now: now["Moment"]["what"].append('"new"'), []),
    ],
    ids=["gone", "a struct gone", "another type", "null", "a word gone", "a field more", "a word more"],
)
def test_a_reader_notices_what_is_gone_and_not_what_is_new(change, said):
    now = schema()
    change(now)
    if said is None:
        assert broken(read(), now)
    else:
        assert broken(read(), now) == said
    assert said != [] or len(added(read(), now)) == 1


def test_keeping_it_anew_takes_nothing_away(monkeypatch, tmp_path):
    monkeypatch.setattr(resultschema, "KEPT", tmp_path / "kept.json")
    assert resultschema.main() == ""
    before = (tmp_path / "kept.json").read_bytes()
    less = schema()
    del less["Finding"]["ioba"]
    monkeypatch.setattr(resultschema, "schema", lambda: less)
    assert "raise SCHEMA" in resultschema.main()
    assert (tmp_path / "kept.json").read_bytes() == before
