"""Tables of people's: CSV as spreadsheets write it, with the separators and encodings that they choose by country."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path

from unfuse.errors import FormatError

LARGEST = 16 << 20  # bytes of a table
SEPARATORS = ",;\t"  # the first one that parts the first row


def cells(path: str | Path) -> list[list[str]]:
    """The rows of a CSV file that are not blank, each cell without the spaces around it.

    UTF-8, with or without a byte order mark, or UTF-16 with one, as Excel's "Unicode text" is; cells are parted by
    commas, semicolons or tabs. Raises FormatError where it is not such a table.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise FormatError(f"the table {path} cannot be read ({error.strerror or error})") from error
    if len(data) > LARGEST:
        raise FormatError(f"the table {path} is larger than {LARGEST:,} bytes: is it a table?")
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=_separator(text), skipinitialspace=True, strict=True
        )
        rows = [[cell.strip() for cell in row] for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(
            f"the table {path} is not a CSV file in UTF-8 ({error}): save it as 'CSV UTF-8' in the spreadsheet"
        ) from error
    return [row for row in rows if any(row)]


def _separator(text: str) -> str:
    for mark in SEPARATORS:
        if len(next(csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=mark), ())) > 1:
            return mark
    return ","
