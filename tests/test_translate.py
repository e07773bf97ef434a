"""Many languages from one table: each language whole or not at all, and what is missing is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_words import RED, SIZE, stack, written

import unfuse
from unfuse import translate as module
from unfuse.errors import FormatError, StackError
from unfuse.layers import LayerStack

TABLE = """text,de,fr,pl
Summer,Sommer,Été,
Entrance free,Eintritt frei,Entrée libre,Wstęp wolny
"""


@pytest.fixture
def before() -> LayerStack:
    return stack(written([("Summer", 200, 60, 48, RED), ("Entrance free", 200, 210, 20, (0, 0, 90))]))


def table(folder: Path, text: str = TABLE) -> Path:
    (folder / "table.csv").write_text(text, "utf-8")
    return folder / "table.csv"


def test_every_language_in_every_format(before: LayerStack, tmp_path: Path) -> None:
    to = tmp_path / "out"
    done = module.translate(before, table(tmp_path), to, suffixes=(".png", ".zip"), font="Inter")
    assert [note.partition(", weight")[0] for note in done[1].notes] == ["'Words': set in Inter"] * 2
    assert [note.rpartition(" for ")[2] for note in done[1].notes] == ["'Été'", "'Entrée libre'"]
    assert [(each.language, each.files) for each in done] == [
        ("de", ("de.png", "de.zip")),
        ("fr", ("fr.png", "fr.zip")),
        ("pl", ()),
    ]
    assert done[2].error == "pl lacks 'Summer': fill it in, or keep what is not translated with --keep"
    assert sorted(path.name for path in to.iterdir()) == ["de.png", "de.zip", "fr.png", "fr.zip"]
    french = unfuse.load(to / "fr.zip")["Words"].text
    assert french
    assert [line.string for line in french.lines] == ["Été", "Entrée libre"]
    with Image.open(to / "de.png") as picture:
        assert picture.size == SIZE
        changed = np.asarray(picture.convert("RGB")) != np.asarray(before.flatten().convert("RGB"))
        assert changed.any()


def test_what_is_not_translated_can_be_kept(before: LayerStack, tmp_path: Path) -> None:
    done = module.translate(before, table(tmp_path), tmp_path, suffixes=(".zip",), keep=True, font="Inter")
    assert not any(each.error for each in done)
    polish = unfuse.load(tmp_path / "pl.zip")["Words"].text
    assert polish
    assert [line.string for line in polish.lines] == ["Summer", "Wstęp wolny"]


def test_a_layer_may_be_named(before: LayerStack, tmp_path: Path) -> None:
    named = table(tmp_path, 'text,de\nWords,"Sommer\n\nEintritt frei"\n')
    (done,) = module.translate(before, named, tmp_path, suffixes=(".zip",), font="Inter")
    assert done.error == ""
    assert module.find(before, "kind:text") == ("words", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a column of texts"),
        ("text\nSummer\n", "needs a column of texts"),
        ("text,../de\nSummer,x\n", "a language is called '../de'"),
        ("text,de,de\nSummer,x,y\n", "a language is called 'de'"),
        ("text,de\nSummer\n", "row 2: it needs a text and 1 translations, it has .*: part its cells by ','"),
        ("text;de\nA;B;C\n", "it has \\['A', 'B', 'C'\\]: put a cell with ';' in it into double quotes"),
        ("text,de\n,x\n", "row 2"),
    ],
)
def test_a_wrong_table_is_refused(before: LayerStack, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        module.translate(before, table(tmp_path, text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_texts_and_formats_are_named(before: LayerStack, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"no layer says or is called .Sumer..*the stack says"):
        module.translate(before, table(tmp_path, "text,de\nSumer,x\n"), tmp_path / "out")
    with pytest.raises(FormatError, match="is not a known format"):
        module.translate(before, table(tmp_path), tmp_path / "out", suffixes=(".xyz",))
    for suffix in ("", "."):
        with pytest.raises(FormatError, match="languages are files: name a suffix"):
            module.translate(before, table(tmp_path), tmp_path / "out", suffixes=(suffix,))
    with pytest.raises(FormatError, match=r"table.csv cannot be a folder .*: choose another"):
        module.translate(before, table(tmp_path), table(tmp_path))
    with pytest.raises(FormatError, match="cannot be read"):
        module.read(tmp_path / "gone.csv")
    assert not (tmp_path / "out").exists()


def test_a_text_is_translated_once(before: LayerStack, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"says twice what becomes of 'Summer' and 'summer': leave one row"):
        module.translate(before, table(tmp_path, "text,de\nSummer,x\nsummer,y\n"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_of_a_german_spreadsheet(before: LayerStack, tmp_path: Path) -> None:
    assert module.read(table(tmp_path, TABLE.replace(",", ";"))) == module.read(table(tmp_path))


def test_what_was_written_before_a_format_failed_is_told(before: LayerStack, tmp_path: Path) -> None:
    (tmp_path / "out" / "de.zip").mkdir(parents=True)
    (tmp_path / "out" / "de.zip" / "mine.txt").touch()
    suffixes = (".png", ".zip")
    (done,) = module.translate(
        before, table(tmp_path, "text,de\nSummer,Sommer\n"), tmp_path / "out", suffixes=suffixes, font="Inter"
    )
    assert done.files == ("de.png",)
    assert "'mine.txt' in it, which unfuse did not write" in done.error


def test_a_folder_without_fonts_is_said(before: LayerStack, tmp_path: Path) -> None:
    (done, *_) = module.translate(before, table(tmp_path), tmp_path / "out", folder=str(tmp_path / "gone"))
    assert "gone' is not there, or holds none" in done.error
    assert not done.files


def test_the_command(before: LayerStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from unfuse import cli

    before.save(tmp_path / "stack.zip")
    arguments = ["translate", str(tmp_path / "stack.zip"), str(table(tmp_path)), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as left:
        cli.main([*arguments, "--json", "--font", "Inter", "--format", "jpg"])
    told = capsys.readouterr()
    assert left.value.code == 2
    assert [each["files"] for each in json.loads(told.out)] == [["de.jpg"], ["fr.jpg"], []]
    assert [len(each["notes"]) for each in json.loads(told.out)] == [2, 2, 0]
    assert "1 of 3 languages failed: pl: pl lacks 'Summer'" in " ".join(told.err.split())
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--font", "Inter"])
    told = capsys.readouterr()
    assert [Path(line).name for line in told.out.splitlines()] == ["de.png", "fr.png"]
    assert "unfuse: note: de: 'Words': set in Inter, weight 700" in told.err
    assert "for 'Sommer'" in told.err
