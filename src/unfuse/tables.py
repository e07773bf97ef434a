"""Tables of people's: CSV as spreadsheets write it, with the separators and encodings that they choose by country."""

from __future__ import annotations

import codecs
import csv
import io
import re
from pathlib import Path

from unfuse.errors import FormatError

LARGEST = 16 << 20  # bytes of a table
SEPARATORS = ",;\t"  # the first of those that fit equally well
SAID = re.compile(rf"sep=([{SEPARATORS}])\r?\n")


def cells(path: str | Path, what: str = "") -> tuple[list[list[str]], str]:
    """The rows of a CSV file that are not blank, each cell without the spaces around it, and what parts the cells.

    UTF-8, with or without a byte order mark, or UTF-16 with one, as Excel's "Unicode text" is. Cells are parted by that
    of commas, semicolons or tabs by which most rows have as many cells as the first, or by what Excel's `sep=;` in the
    first line says. `what` is what errors call the table. Raises FormatError where it is not such a table.
    """
    what = what or f"the table {path}"
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise FormatError(f"{what} cannot be read ({error.strerror or error})") from error
    if len(data) > LARGEST:
        raise FormatError(f"{what} is larger than {LARGEST:,} bytes: is it a table?")
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
        told = SAID.match(text)
        text = text[told.end() :] if told else text
        mark = told[1] if told else max(SEPARATORS, key=lambda each: _even(_parted(text, each, strict=False)))
        return _parted(text, mark, strict=True), mark
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(
            f"{what} is not a CSV file in UTF-8 ({error}): save it as 'CSV UTF-8' in the spreadsheet"
        ) from error


def _parted(text: str, mark: str, *, strict: bool) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True, strict=strict)
    return [row for row in ([cell.strip() for cell in line] for line in reader) if any(row)]


def _even(rows: list[list[str]]) -> int:
    """How many rows have as many cells as the first; none where that has but one."""
    return sum(len(row) == len(rows[0]) > 1 for row in rows)
