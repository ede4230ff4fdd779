"""The public collections' parsing, on catalogues and tables of a few lines."""

import argparse
import hashlib

import debian_packages
import keel_tables
import torch
from accuracy import add_options, protocol_of

from data_contracts.configs import BenchmarkConfig
from data_contracts.odcs import load_contract

CATALOGUE = """Package: pkg{number}
Source: {source} (1.0)
Installed-Size: 12{number}
Depends: libc6 (>= 2.3), perl:any | awk
Architecture: all
Section: {section}
Size: 345
Description: in short
Description-md5: md5-{number}
Tag: role::program, use::viewing,
 works-with::text
"""
TRANSLATION = """Package: pkg{number}
Description-md5: md5-{number}
Description-pt_BR: um programa {number}
 Mostra coisas: a e b.
 .
  * e outras
"""


def write_catalogue(folder, packages):
    """Write (source, section) pairs as apt's lists and return their rows."""
    stanzas = [CATALOGUE.format(number=n, source=s, section=t) for n, (s, t) in enumerate(packages)]
    (folder / "x_Packages").write_text("\n".join(stanzas), encoding="utf-8")
    texts = [TRANSLATION.format(number=n) for n in range(len(packages))]
    (folder / "x_Translation-pt%5fBR").write_text("\n".join(texts) + "\n\n", encoding="utf-8")
    return [list(debian_packages.read_stanzas(path)) for path in sorted(folder.iterdir())]


def test_stanzas_keep_the_lines_of_a_field(tmp_path):
    packages, translations = write_catalogue(tmp_path, [("a", "net"), ("b", "net")])
    assert [stanza["Package"] for stanza in packages] == ["pkg0", "pkg1"]
    assert packages[0]["Tag"] == "role::program, use::viewing,\nworks-with::text"
    assert translations[1]["Description-pt_BR"].splitlines() == [
        "um programa 1",
        "Mostra coisas: a e b.",
        ".",
        " * e outras",
    ]


def test_rows_hold_texts_and_counts_and_nothing_that_names_the_section(tmp_path):
    lists = write_catalogue(tmp_path, [(f"source{number}", "contrib/net") for number in range(10)])
    rows = debian_packages.choose_rows(*lists, "pt_BR")
    first = next(row for row in rows if row["title"] == "um programa 0")
    assert first["item_id"] == hashlib.sha256(b"pkg0").hexdigest()[:12]
    assert first["details"] == "Mostra coisas: a e b. * e outras"
    assert {row["label"] for row in rows} == {"net"}
    assert (first["depends"], first["recommends"], first["tags"]) == (2, 0, 3)
    assert (first["installed_kib"], first["archive_bytes"]) == (120, 345)
    assert first["is_same_everywhere"]
    assert not first["is_own_source"]
    assert not any("net" in str(value) or "pkg" in str(value) for name, value in first.items() if name != "label")


def test_sections_are_as_large_as_asked_with_one_package_a_source(tmp_path):
    many = [(f"source{number}", "net") for number in range(60)] + [("source0", "net")] * 5
    few = [(f"source{number}", "x11") for number in range(9)]
    twins = [("one", "perl")] * 30
    rows = debian_packages.choose_rows(*write_catalogue(tmp_path, many + few + twins), "pt_BR")
    assert [row["label"] for row in rows] == ["net"] * 40


def test_packages_without_a_translation_are_left_out(tmp_path):
    packages, translations = write_catalogue(tmp_path, [(f"source{number}", "net") for number in range(12)])
    rows = debian_packages.choose_rows(packages, translations[:11], "pt_BR")
    assert len(rows) == 11
    assert debian_packages.choose_rows(packages, translations, "de") == []


def test_sources_are_written_once_with_a_contract_that_compiles(tmp_path, monkeypatch):
    lists = tmp_path / "lists"
    lists.mkdir()
    write_catalogue(lists, [(f"source{number}", "net") for number in range(12)])
    fetched = []
    monkeypatch.setattr(debian_packages, "fetch_lists", lambda folder, languages: fetched.append(languages) or lists)
    for _ in range(2):
        (folder,) = debian_packages.write_sources(tmp_path / "sources", ["debian-pt-br"])
    assert fetched == [["pt_BR"]]
    contract = load_contract(folder / "contract.yaml")
    assert [view.name for view in contract.columns_to_encode] == ["title", "details", "tabular"]
    assert len((folder / "items.jsonl").read_text(encoding="utf-8").splitlines()) == 12


def test_table_becomes_two_views_of_numbers_and_categories():
    domain = keel_tables.build_domain("tiny", "1.0, red, 3, yes\n2.0, blue, <null>, no\n\n3.5, red, 5, yes\n")
    assert domain.classes == ("tiny/no", "tiny/yes")
    assert domain.labels.tolist() == [0, 1, 1]
    assert [view.name for view in domain.views] == ["even", "odd"]
    numbers, categories = domain.features["even"], domain.features["odd"]
    assert numbers.shape == (3, 6)
    assert numbers[0, 5] == 1  # the flag of what is missing
    assert numbers[1:, 5].tolist() == [0, 0]
    assert torch.equal(categories[1], categories[2])
    assert not torch.equal(categories[0], categories[1])


def test_large_table_is_thinned_out_evenly_over_its_classes():
    lines = [f"{number},{number},{'a' if number < 3000 else 'b'}" for number in range(4000)]
    domain = keel_tables.build_domain("large", "\n".join(lines))
    assert torch.bincount(domain.labels).tolist() == [1500, 500]


def test_public_data_and_emoji_are_measured_alike():
    arguments = argparse.ArgumentParser()
    add_options(arguments)
    protocol = protocol_of(arguments.parse_args([]), ["one"], ["two"])
    assert protocol == BenchmarkConfig(train=("one",), test=("two",), split_seeds=(0, 1, 2, 3, 4))
    chosen = arguments.parse_args(["--learners", "ridge", "maml", "--splits", "2", "--missing", "0.5"])
    protocol = protocol_of(chosen, ["one"], ["two"])
    assert (protocol.learners, protocol.split_seeds, protocol.missing) == (("ridge", "maml"), (0, 1), 0.5)


def test_tables_are_drawn_for_each_split_and_none_is_trained_and_tested_on():
    splits = [keel_tables.split(seed) for seed in range(5)]
    assert all(sorted((*train, *test)) == sorted(keel_tables.TABLES) for train, test in splits)
    assert len({test for _, test in splits}) == 5
    assert {len(test) for _, test in splits} == {keel_tables.N_TEST}
