"""Print the lower bounds of pyproject.toml as pip constraints: `numpy>=1.26` becomes `numpy==1.26`.

`make lowest` installs by them, so that what pyproject.toml promises is tried. Not a test itself.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
tools = [line for line in project["optional-dependencies"]["dev"] if re.match("pytest|hypothesis|hatchling", line)]
for requirement in [*project["dependencies"], *tools]:
    name, bound = requirement.split(">=")
    print(f"{name}=={bound}")
