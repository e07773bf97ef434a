"""The parts pack: objects, scenes, photographs, typefaces and matcaps that the composer draws designs from.

`manifest.json` names every package by registry, name, version and sha256, with its licence and what is taken. `build`
fetches them with the registries' own clients, checks them, lets `harvest` turn them into parts, and writes one folder:

    objects/<source>/<name>.webp   straight RGBA, cropped, long side <= 256          kind "object"
    scenes/<name>/00.webp ...      straight RGBA, one canvas, bottom to top, <= 320  kind "scene", one row per layer
    photos/<name>.webp             RGB, long side <= 512                             kind "photo"
    fonts/<name>.woff2             Latin kind "font"; a few hundred Chinese characters kind "cjk-font"
    matcaps/<name>.webp            RGB, 128 x 128                                    kind "matcap"
    pack.json                      {"packages": [...], "parts": [{file, kind, category, source, license, attribution,
                                   size, split}, ...]}

A tenth of the families of like parts is held out as `"split": "valid"`. Packages that evaluation draws from are refused
by name. A package that `pack.json` already lists is not built again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unfuse.corpus import harvest
from unfuse.errors import UnfuseError

HELD_OUT_PACKAGES = (
    "@iconify-json/noto",
    "@iconify-json/fxemoji",
    "@gravity-ui/illustrations",
    "@douyinfe/semi-illustrations",
    "@dicebear/lorelei",
    "lomiri-wallpapers",
    "scikit-image",
    "scikit-learn",
    "tuxpaint-stamps",
)
HELD_OUT_FONTS = (
    "comic-neue",
    "league-spartan",
    "yanone-kaffeesatz",
    "eb-garamond",
    "cabin",
    "quicksand",
    "jura",
    "prociono",
    "lxgw-wenkai",
    "noto-emoji",
    "noto-color-emoji",
)
REGISTRIES = ("npm", "debian", "pypi")


class PartsError(UnfuseError):
    """The manifest is wrong, a package is held out, or an archive is not the one that the manifest pins."""


@dataclass(frozen=True)
class Package:
    """One row of the manifest."""

    registry: str
    name: str
    version: str
    sha256: str  # of the archive
    license: str  # SPDX, or "public-domain"
    takes: str  # what is taken out of it, in words
    harvest: str | None  # the function of `harvest` that takes it; None: another package needs it
    attribution: str = ""
    files: tuple[str, ...] = ()  # for fonts: what to take
    characters: str = ""  # for fonts in slices: what to put together
    needs: tuple[str, ...] = ()  # names of other packages to unpack beside it


@dataclass(frozen=True)
class Part:
    """One row of `pack.json`."""

    file: str
    kind: str
    category: str
    source: str
    license: str
    attribution: str
    size: tuple[int, int] | None  # width, height
    split: str


def held_out(name: str) -> bool:
    """Whether evaluation draws from the package `name`, or from the same art or typeface in another registry."""
    if any(name.startswith(package) for package in HELD_OUT_PACKAGES):
        return True
    if not name.startswith(("fonts-", "@fontsource")):
        return False
    family = name.rpartition("/")[2].removeprefix("fonts-").replace("-", "")
    return family.startswith(tuple(font.replace("-", "") for font in HELD_OUT_FONTS))


def split(family: str) -> str:
    """`valid` for a tenth of all families by a hash that never changes, else `train`."""
    return "valid" if int(hashlib.sha256(family.encode()).hexdigest()[:8], 16) % 10 == 0 else "train"


def read_manifest(path: Path | None = None) -> list[Package]:
    """Read and check a manifest; the default is the one that ships. Raises `PartsError`."""
    path = path or Path(__file__).with_name("manifest.json")
    packages = []
    for row in json.loads(path.read_text("utf-8"))["packages"]:
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        packages.append(Package(**fields))
    names = {package.name for package in packages}
    for package in packages:
        _check(package, names)
    return packages


def _check(package: Package, names: Collection[str]) -> None:
    if held_out(package.name):
        raise PartsError(f"{package.name} is held out for evaluation and must never be trained on; take it out")
    if package.registry not in REGISTRIES:
        raise PartsError(f"{package.name}: registry {package.registry!r} is none of {', '.join(REGISTRIES)}")
    if not re.fullmatch(r"[0-9a-f]{64}", package.sha256):
        raise PartsError(f"{package.name}: sha256 {package.sha256!r} is not 64 hexadecimal digits")
    if not package.license or not package.version:
        raise PartsError(f"{package.name}: a licence and a pinned version are needed")
    if package.harvest is not None and package.harvest not in harvest.HARVESTS:
        raise PartsError(f"{package.name}: harvest {package.harvest!r} is none of {', '.join(harvest.HARVESTS)}")
    if missing := set(package.needs) - set(names):
        raise PartsError(f"{package.name} needs {', '.join(sorted(missing))}, which the manifest lacks")


def build(
    out: Path,
    *,
    only: Collection[str] = (),
    archives: Path | None = None,
    manifest: Path | None = None,
    tell: Callable[[str], None] = print,
) -> None:
    """Build the pack in `out`, or go on with it, one package after the other; `only` restricts it to these packages.

    Archives are kept in `archives` (default: beside `out`) and fetched only where they are missing there. `pack.json`
    is replaced after every package, so that what is there can be used. Raises `PartsError`.
    """
    packages = {package.name: package for package in read_manifest(manifest)}
    if unknown := set(only) - set(packages):
        raise PartsError(f"no package {', '.join(sorted(unknown))} in the manifest; it has {', '.join(packages)}")
    archives = archives or out.with_name(out.name + "-archives")
    for folder in (out, archives):
        folder.mkdir(parents=True, exist_ok=True)
    built = _read(out)
    for package in packages.values():
        if package.harvest is None or (only and package.name not in only) or package.name in built:
            continue
        with tempfile.TemporaryDirectory(prefix="unfuse-parts-") as place:
            for each in (package, *(packages[name] for name in package.needs)):
                unpack(fetch(each, archives), Path(place), each)
            built[package.name] = _take(package, Path(place), out)
        _write(out / "pack.json", _pack(packages, built))
        tell(f"{package.name} {package.version}: {len(built[package.name])} parts")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    tell(f"{sum(map(len, built.values()))} parts, {size / 2**20:.1f} MiB")


def fetch(package: Package, archives: Path) -> Path:
    """The package's archive in the folder `archives`, fetched by its registry's client where it is not there yet."""
    archive = archives / package.sha256
    if not archive.exists():
        with tempfile.TemporaryDirectory(dir=archives) as place:
            command = {
                "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
                "debian": ["apt-get", "download", "-q", f"{package.name}={package.version}"],
                "pypi": ["pip", "download", "-q", "--no-deps", f"{package.name}=={package.version}"],
            }[package.registry]
            if shutil.which(command[0]) is None:
                raise PartsError(f"{package.name} is fetched with {command[0]}, which is not installed; install it")
            run = subprocess.run(command, cwd=place, capture_output=True, text=True)
            got = list(Path(place).iterdir())
            if run.returncode or len(got) != 1:
                raise PartsError(f"{' '.join(command)} failed: {run.stderr.strip()[-400:]}")
            _verify(package, got[0])
            got[0].replace(archive)
    _verify(package, archive)
    return archive


def _verify(package: Package, archive: Path) -> None:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise PartsError(
            f"{package.name} {package.version}: the archive has sha256 {digest}, the manifest pins {package.sha256}"
        )


def unpack(archive: Path, folder: Path, package: Package) -> None:
    """Unpack into `folder`: an npm package to `node_modules/<name>`, others as they are."""
    if package.registry == "npm":
        home = folder / "node_modules" / package.name
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "npm", filter="data")
        (inner,) = (folder / "npm").iterdir()
        home.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(inner, home)
    elif package.registry == "debian":
        subprocess.run(["dpkg", "-x", archive, folder], check=True)
    else:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)


def _take(package: Package, folder: Path, out: Path) -> list[Part]:
    """Run the package's harvest and write the files that it gives."""
    home = folder / "node_modules" / package.name if package.registry == "npm" else folder
    parts: dict[str, Part] = {}
    for found in harvest.HARVESTS[package.harvest or ""](home, package.files, package.characters):
        if found.file in parts:
            raise PartsError(f"{package.name} gives {found.file} twice; its harvest must name parts apart")
        _write(out / found.file, found.data)
        parts[found.file] = Part(
            file=found.file,
            kind=found.kind,
            category=found.category,
            source=package.name,
            license=found.license or package.license,
            attribution=found.attribution or package.attribution,
            size=found.size,
            split=split(found.family),
        )
    return list(parts.values())


def _read(out: Path) -> dict[str, list[Part]]:
    """The parts that are built already, by package."""
    path = out / "pack.json"
    if not path.exists():
        return {}
    pack = json.loads(path.read_text("utf-8"))
    built: dict[str, list[Part]] = {row["name"]: [] for row in pack["packages"]}
    for row in pack["parts"]:
        built[row["source"]].append(Part(**{**row, "size": row["size"] and tuple(row["size"])}))
    return built


def _pack(packages: dict[str, Package], built: dict[str, list[Part]]) -> bytes:
    """The text of `pack.json`: packages and parts in the manifest's order, one part per line."""
    heads = ("registry", "name", "version", "sha256", "license", "attribution")
    names = [name for name in packages if name in built]
    rows = [{key: getattr(packages[name], key) for key in heads} for name in names]
    parts = [json.dumps(asdict(part), ensure_ascii=False) for name in names for part in built[name]]
    text = (
        '{"packages": '
        + json.dumps(rows, ensure_ascii=False, indent=1)
        + ',\n"parts": [\n'
        + ",\n".join(parts)
        + "\n]}\n"
    )
    return text.encode()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(data)
    temporary.replace(path)
