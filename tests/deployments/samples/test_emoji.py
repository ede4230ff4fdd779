"""The emoji sources: real files, small enough to build in seconds."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_contracts.arrow_schema import source_schema
from data_contracts.contract import Contract
from data_contracts.errors import PackageMissing
from data_contracts.odcs import load_contract
from deployments.samples import emoji
from deployments.samples.emoji import SampleDomain, build_emoji
from deployments.samples.emoji_artwork import draw, has_drawing
from deployments.samples.emoji_subjects import choose_subjects
from tasks.validate import mask_rows

SMALL = 45


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> list[SampleDomain]:
    return build_emoji(tmp_path_factory.mktemp("emoji"), items=SMALL)


def read_as_text(domain: SampleDomain, contract: Contract) -> pa.Table:
    path = domain.folder / contract.server.path
    schema = source_schema(contract)
    match contract.server.format:
        case "csv":
            options = pa_csv.ConvertOptions(column_types=schema, strings_can_be_null=True)
            return pa_csv.read_csv(path, convert_options=options)
        case "jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            texts = [{name: str(value) for name, value in row.items()} for row in rows]
            return pa.Table.from_pylist(texts, schema=schema)
        case "parquet":
            return pq.read_table(path).cast(schema)


def test_ten_domains_train_and_two_are_held_out(domains):
    names = [
        f"{vendor}-{language}" for vendor in ("openmoji", "twemoji") for language in ("en", "de", "fr", "es", "ja")
    ]
    assert [domain.domain for domain in domains if not domain.is_held_out] == names
    assert [domain.domain for domain in domains if domain.is_held_out] == ["noto-ru", "noto-zh"]


def test_sources_come_in_every_table_format(domains):
    assert {load_contract(domain.contract).server.format for domain in domains} == {"csv", "jsonl", "parquet"}


def test_every_row_keeps_the_contract_beside_it(domains):
    for domain in domains:
        contract = load_contract(domain.contract)
        rows = read_as_text(domain, contract)
        assert rows.num_rows == domain.items
        assert [reasons for reasons in mask_rows(rows, contract)["reasons"].to_pylist() if reasons] == []


def test_every_named_picture_is_there_and_no_other(domains):
    for domain in domains:
        rows = read_as_text(domain, load_contract(domain.contract))
        named = {path for path in rows["picture"].to_pylist() if path}
        assert named == {f"images/{path.name}" for path in (domain.folder / "images").iterdir()}
        with Image.open(domain.folder / min(named)) as picture:
            assert picture.size == (224, 224)


def test_same_emoji_has_the_same_item_id_and_label_in_every_domain(domains):
    tables = [read_as_text(domain, load_contract(domain.contract)) for domain in domains]
    labels = [dict(zip(t["item_id"].to_pylist(), t["label"].to_pylist(), strict=True)) for t in tables]
    assert all(found == labels[0] for found in labels)


def test_building_twice_gives_the_same_bytes(domains, tmp_path):
    again = build_emoji(tmp_path, items=SMALL)
    for first, second in zip(domains, again, strict=True):
        assert contents(first.folder) == contents(second.folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_complete_is_not_built_again(domains):
    target = domains[0].folder.parent
    assert build_emoji(target, items=SMALL, progress=lambda done, total: pytest.fail("drew again")) == domains


def test_missing_domain_is_built_again(tmp_path):
    build_emoji(tmp_path, items=12)
    (tmp_path / "noto-zh" / "contract.yaml").unlink()
    assert build_emoji(tmp_path, items=12)[-1].contract.exists()


def test_interrupted_build_leaves_nothing(tmp_path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_emoji(tmp_path, items=12, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji, "_PACKAGES", ("no-such-artwork",))
    with pytest.raises(PackageMissing, match=r"'no-such-artwork'.*\[demo\]"):
        build_emoji(tmp_path)


def drawn_by_all(subject):
    return all(has_drawing(vendor, subject.bare) for vendor in emoji.VENDORS)


def test_all_subjects_have_ten_drawings_of_every_vendor_in_54_classes():
    subjects = choose_subjects(drawn_by_all)
    complete = Counter(subject.subcategory for subject in subjects if drawn_by_all(subject))
    assert len(complete) == 54
    assert min(complete.values()) >= 10
    assert len(subjects) > 1300
    assert all(len(subject.names) == 7 for subject in subjects)


def test_limit_keeps_whole_subcategories_and_as_many_as_fit():
    everything = Counter(subject.subcategory for subject in choose_subjects(drawn_by_all))
    limited = Counter(subject.subcategory for subject in choose_subjects(drawn_by_all, limit=300))
    assert all(everything[name] == size for name, size in limited.items())
    assert limited.total() <= 300 < limited.total() + min((everything - limited).values())


def test_order_and_ids_do_not_give_the_subcategory_away():
    labels = [subject.subcategory for subject in choose_subjects(drawn_by_all)]
    neighbours = sum(a == b for a, b in pairwise(labels)) / len(labels)
    by_chance = sum((count / len(labels)) ** 2 for count in Counter(labels).values())
    assert neighbours < 2 * by_chance


def test_flags_skin_tones_and_hair_variants_are_left_out():
    characters = "".join(subject.characters for subject in choose_subjects(drawn_by_all))
    assert not set(characters) & set("🏻🏼🏽🏾🏿🦰🦱🦲🦳🇦🇿")


def test_shapes_and_colours_are_counted_in_the_drawing():
    red_heart = draw("twemoji", "❤")
    assert (red_heart.paths, red_heart.colours) == (1, 1)
    assert draw("noto", "❤").colours == 1
    assert not has_drawing("noto", "👨‍🌾")
