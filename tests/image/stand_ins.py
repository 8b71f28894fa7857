"""Stand-ins for what the image is built from, where no registry of images and no index of PyTorch can be reached.

    PYTHONPATH=tests python -m image.stand_ins PROGRAMS build/stand-ins

makes an image of TGI's programs (PROGRAMS has `text-generation-launcher` and `text-generation-router`), an
image with Debian's Python, and an index with a torch without CUDA. Needs root, Docker, debootstrap, gcc, binutils,
Debian's mirror and PyPI. docs/compatibility.md says what is built from them.
"""

import argparse
import email
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from image.repository import ROOT

TGI_IMAGE = "text-generation-inference:3.3.7-programs"
PYTHON_IMAGE = "python:3.11-debian-12"

SUITE = "bookworm"
DEBIAN = ["ca-certificates", "python3", "python3-pip", "libpython3.11", "libssl3"]
UNUSED = ["var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", "usr/share/doc/*", "usr/share/locale/*"]

CUDA_LIBRARIES = re.compile(r"libtorch_(cuda\w*|nvshmem|global_deps)\.so|libc10_cuda\.so|libcaffe2_nvrtc\.so")
NVIDIA = re.compile(r"libcu|libnv")
NO_DEVICE = 100
"""cudaErrorNoDevice: what the functions of CUDA return in the stand-in. Those of torch return 0, such as devices."""
PLACE_IS_WRITTEN_TO = "_ZN4c10d15get_gil_checkerEv"
"""The one function of torch that is called while its libraries are loaded: it returns where a pointer is put."""

CLASS_TYPE = "_ZTVN10__cxxabiv117__class_type_infoE+16"
"""What the type of a C++ class without a base begins with; its name follows."""

OF_PYTHON = re.compile("_?Py")


def programs_image(programs: Path) -> None:
    """An image that holds launcher and router where the official one has them."""
    with tempfile.TemporaryDirectory() as root:
        target = Path(root) / "usr" / "local" / "bin"
        target.mkdir(parents=True)
        for name in ("text-generation-launcher", "text-generation-router"):
            shutil.copy(programs / name, target)
        import_image(Path(root), TGI_IMAGE)


def python_image() -> None:
    """Debian with the packages that launcher and router need of the official Python image, and this machine's
    certificates, which the network may ask for."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        run("debootstrap", "--variant=minbase", f"--include={','.join(DEBIAN)}", SUITE, str(root))
        certificates = ssl.get_default_verify_paths().cafile
        if certificates is not None:
            shutil.copy(certificates, root / "etc" / "ssl" / "certs" / "ca-certificates.crt")
        for pattern in UNUSED:
            for path in root.glob(pattern):
                run("rm", "-r", str(path))
        import_image(root, PYTHON_IMAGE)


def import_image(root: Path, name: str) -> None:
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as packed:
        subprocess.run(["docker", "import", "-", name], stdin=packed.stdout, check=True)


def torch_index(directory: Path) -> None:
    """A package index with one wheel: PyPI's torch without its CUDA libraries."""
    (version,) = re.findall(r"torch==(\S+)", (ROOT / "locks" / "torch.txt").read_text())
    index = directory / "torch"
    index.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--python-version", "3.11"]
        run(*pip, "--only-binary", ":all:", "--dest", scratch, f"torch=={version}")
        (wheel,) = Path(scratch).glob("*.whl")
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        without_cuda(unpacked, version)
        name = wheel.name.replace(version, f"{version}+cpu")
        with zipfile.ZipFile(index / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for file in sorted(unpacked.rglob("*")):
                archive.write(file, file.relative_to(unpacked))
    (index / "index.html").write_text(f'<a href="{name}">{name}</a>\n')


def without_cuda(unpacked: Path, version: str) -> None:
    """Leaves out the CUDA libraries, and puts in one of their place that has their symbols and does nothing."""
    removed = [path for path in unpacked.glob("torch/lib/*") if CUDA_LIBRARIES.match(path.name)]
    kept = [path for path in unpacked.rglob("*.so*") if path not in removed]
    needed = {
        name for path in kept for name in re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-dW", str(path)))
    }
    others = {name for name in needed if NVIDIA.match(name)} | {path.name for path in removed}
    beside = {path.name for path in kept}
    system = [Path(output("gcc", f"-print-file-name={name}").strip()) for name in needed - others - beside]
    defined = {
        name
        for path in [*kept, *filter(Path.exists, system)]
        for name, section, *_ in symbols(path)
        if section != "UND"
    }
    wanted = {
        name
        for path in kept
        for name, section, *_ in symbols(path)
        if section == "UND" and not OF_PYTHON.match(name)
    }
    objects = {
        name: size
        for path in removed
        for name, section, what, size in symbols(path)
        if section != "UND" and what == "OBJECT"
    }
    for path in removed:
        path.unlink()
    library_of_stubs(unpacked / "torch" / "lib" / "libtorch_cuda.so", sorted(wanted - defined), objects)
    for name in others - {"libtorch_cuda.so"}:
        library_of_stubs(unpacked / "torch" / "lib" / name, [], {})
    (old,) = unpacked.glob("torch-*.dist-info")
    metadata = email.message_from_string((old / "METADATA").read_text())
    requirements = [
        line for line in metadata.get_all("Requires-Dist", []) if not re.match("nvidia-|triton", line)
    ]
    del metadata["Requires-Dist"]
    for line in requirements:
        metadata["Requires-Dist"] = line
    metadata.replace_header("Version", f"{version}+cpu")
    (old / "METADATA").write_text(metadata.as_string())
    new = old.rename(old.with_name(f"torch-{version}+cpu.dist-info"))
    files = [path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()]
    (new / "RECORD").write_text("".join(f'"{name}",,\n' for name in files))
    about = unpacked / "torch" / "version.py"
    text = re.sub(r"^cuda.*= .*", "cuda = None", about.read_text(), flags=re.MULTILINE)
    about.write_text(re.sub(r"\+cu\d+", "+cpu", text))


def symbols(library: Path) -> Iterable[tuple[str, str, str, int]]:
    """Name, section ("UND" if it is wanted), type and size of each dynamic symbol that others may see."""
    for line in output("readelf", "-W", "--dyn-syms", str(library)).splitlines():
        match line.split():
            case [_, _, _, _, "WEAK", _, "UND", *_]:
                # A library may lack these.
                continue
            case [_, _, size, what, "GLOBAL" | "WEAK" | "UNIQUE", _, section, name, *_]:
                yield name.partition("@")[0], section, what, int(size, 0)


def library_of_stubs(path: Path, names: list[str], objects: dict[str, int]) -> None:
    """`objects` are zeros of that many bytes; everything else is a function that does nothing."""
    lines = ['.section .note.GNU-stack,"",@progbits', ".bss", "place: .zero 8"]
    for name in names:
        lines.append(f'.globl "{name}"')
        if name.startswith("_ZTI"):
            lines.append(
                f'.data\n"{name}": .quad {CLASS_TYPE}, "name of {name}", 0\n"name of {name}": .string "{name[4:]}"'
            )
            continue
        if name in objects:
            lines.append(
                f'.bss\n.type "{name}",@object\n.size "{name}",{objects[name]}\n"{name}": .zero {objects[name]}'
            )
            continue
        returned = f"mov ${0 if name.startswith('_Z') else NO_DEVICE}, %eax"
        if name == PLACE_IS_WRITTEN_TO:
            returned = "lea place(%rip), %rax"
        lines.append(f'.text\n.type "{name}",@function\n"{name}": {returned}\nret')
    with tempfile.NamedTemporaryFile("w", suffix=".s") as source:
        source.write("\n".join([*lines, ""]))
        source.flush()
        run("gcc", "-shared", "-nostdlib", f"-Wl,-soname,{path.name}", "-o", str(path), source.name)


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("programs", type=Path, help="directory of launcher and router")
    parser.add_argument("index", type=Path, help="directory for the package index")
    arguments = parser.parse_args()
    programs_image(arguments.programs)
    python_image()
    torch_index(arguments.index)


if __name__ == "__main__":
    main()
