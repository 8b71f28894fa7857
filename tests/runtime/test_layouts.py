"""What a TPU gets its arrays in, as far as a CPU can tell."""

import numpy as np
import pytest

from text_generation_server.runtime.mesh import DeviceMesh, open_mesh

TABLE = "model.embed_tokens.weight"


@pytest.mark.parametrize("chips", [1, 2])
def test_a_table_whose_rows_do_not_fill_lanes_lies_by_rows(
    chips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = open_mesh(chips)
    monkeypatch.setattr(DeviceMesh, "platform", "tpu")
    table = np.arange(10 * 96, dtype=np.float32).reshape(10, 96)
    placed = mesh.assemble(TABLE, table.shape, ("model",), table.__getitem__)
    assert placed.sharding == mesh.placed(("model",))
    assert placed.format.layout.major_to_minor == (0, 1)
    np.testing.assert_array_equal(np.asarray(placed), table)


@pytest.mark.parametrize(("name", "shape"), [(TABLE, (10, 256)), ("lm_head.weight", (10, 96))])
def test_other_weights_lie_as_the_compiler_likes(
    name: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = open_mesh(1)
    monkeypatch.setattr(DeviceMesh, "platform", "tpu")
    assert mesh.placed_weight(name, shape, ()) == mesh.placed(())
