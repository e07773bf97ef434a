"""Tables as spreadsheets of several countries write them: the same cells out of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from unfuse import tables
from unfuse.errors import FormatError

ROWS = [["name", "Badge.text", "Badge.fit.box"], ["ä", "a; b, c\nd", "[0,0,9,9]"], ["", "", "x"]]
LINES = 'name{0}Badge.text{0} Badge.fit.box\n\nä{0}"a; b, c\nd"{0}"[0,0,9,9]"\n{0}{0}x\n{0}{0}\n'


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_and_encodings(tmp_path: Path, mark: str, encoding: str, end: str) -> None:
    (tmp_path / "t.csv").write_bytes(LINES.format(mark).replace("\n", end).encode(encoding))
    found, parted = tables.cells(tmp_path / "t.csv")
    assert parted == mark
    assert [[cell.replace("\r\n", "\n") for cell in row] for row in found] == ROWS


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('"a;b",c;d\n"e",f\n', [["a;b", "c;d"], ["e", "f"]]),
        ("name;Hero, left.x\na;1\nb;2\n", [["name", "Hero, left.x"], ["a", "1"], ["b", "2"]]),
        ("name;Hero, left.x\na, b;1\nb;2\n", [["name", "Hero, left.x"], ["a, b", "1"], ["b", "2"]]),
        ("sep=;\r\nname;x,y\na;1\n", [["name", "x,y"], ["a", "1"]]),
        ("\nname\na b\n", [["name"], ["a b"]]),
        ("", []),
    ],
)
def test_the_separator_is_that_by_which_rows_are_even(tmp_path: Path, text: str, rows: list[list[str]]) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert tables.cells(tmp_path / "t.csv")[0] == rows


@pytest.mark.parametrize(
    "data", ["name,x\nä,1\n".encode("latin-1"), b'name,x\n"a"b,1\n', b'name,x\n"a,1\n', b"\xff\xfe-"]
)
def test_what_is_no_table_is_refused_with_the_cure(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(FormatError, match=r"not a CSV file in UTF-8 .*save it as 'CSV UTF-8'"):
        tables.cells(tmp_path / "t.csv")
    with pytest.raises(FormatError, match=rf"^the table {tmp_path}/gone.csv cannot be read"):
        tables.cells(tmp_path / "gone.csv")
    with pytest.raises(FormatError, match=r"^the list cannot be read"):
        tables.cells(tmp_path / "gone.csv", "the list")
