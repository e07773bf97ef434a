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
    found = tables.cells(tmp_path / "t.csv")
    assert [[cell.replace("\r\n", "\n") for cell in row] for row in found] == ROWS


def test_commas_come_first_and_one_column_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('"a;b",c;d\n"e",f\n')
    assert tables.cells(tmp_path / "t.csv") == [["a;b", "c;d"], ["e", "f"]]
    (tmp_path / "t.csv").write_text("\nname\na b\n")
    assert tables.cells(tmp_path / "t.csv") == [["name"], ["a b"]]
    (tmp_path / "t.csv").write_text("")
    assert tables.cells(tmp_path / "t.csv") == []


@pytest.mark.parametrize(
    "data", ["name,x\nä,1\n".encode("latin-1"), b'name,x\n"a"b,1\n', b'name,x\n"a,1\n', b"\xff\xfe-"]
)
def test_what_is_no_table_is_refused_with_the_cure(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(FormatError, match=r"not a CSV file in UTF-8 .*save it as 'CSV UTF-8'"):
        tables.cells(tmp_path / "t.csv")
    with pytest.raises(FormatError, match="cannot be read"):
        tables.cells(tmp_path / "gone.csv")
