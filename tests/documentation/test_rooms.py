"""Each foreign library has one room."""

import ast
from pathlib import Path

import pytest

from documentation.repository import ROOT

SERVER = ROOT / "server" / "text_generation_server"

ROOMS = {
    "jax": ("runtime",),
    "torch_xla": ("lowering",),
    "torch": ("engine", "lowering", "model", "sampling"),
    "transformers": ("engine", "lowering", "model"),
    "grpc": ("wire", "tracing.py"),
}
"""Which rooms, or files, may import a library. `pb`, which is generated, is `wire`'s."""


def imports(file: Path) -> set[str]:
    """The top-level packages that a file imports, but for those that only types need."""
    tree = ast.parse(file.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("library", ROOMS)
def test_only_its_rooms_import_a_library(library: str) -> None:
    found = {
        str(file.relative_to(SERVER))
        for file in SERVER.rglob("*.py")
        if file.relative_to(SERVER).parts[0] != "pb"
        and any(name == library or name.startswith(f"{library}.") for name in imports(file))
    }
    assert found
    assert {name for name in found if name.split("/")[0] not in ROOMS[library]} == set()


def test_only_wire_sees_protobuf() -> None:
    found = {
        file.relative_to(SERVER).parts[0]
        for file in SERVER.rglob("*.py")
        if file.relative_to(SERVER).parts[0] != "pb"
        and any(name.startswith("text_generation_server.pb") for name in imports(file))
    }
    assert found == {"wire"}
