"""Operations of programs that torch_xla cannot record.

`lowering.kernels` writes their names down, and `runtime.kernels` has the JAX functions that stand in their place when
a program is compiled.

They need what torch has no word for: a slice whose start is only known when the program runs, and a loop that ends
when the longest prompt ends, or the last expert that was chosen is computed. And a cache in fp8, of which torch_xla has
no tensors, is recorded as int8: but for slices and conversions, nothing but kernels may touch it, see
`runtime.linking`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from text_generation_server.engine.weighing import Weighing

torch.library.define(
    "tpu_tgi::write_pieces",
    "(Tensor cache, Tensor new, Tensor slots, Tensor starts, bool ring, int positions) -> Tensor",
)
torch.library.define(
    "tpu_tgi::attend_pieces",
    "(Tensor query, Tensor keys, Tensor values, Tensor mask, Tensor slots, Tensor ends, int key_value_heads, "
    "float? softcap, Tensor? sinks, Tensor? key_scales, Tensor? value_scales, bool paired) -> Tensor",
)
torch.library.define("tpu_tgi::write_steps", "(Tensor cache, Tensor new, Tensor places) -> Tensor")
torch.library.define(
    "tpu_tgi::copy_slot",
    "(Tensor cache, Tensor slot, Tensor source, Tensor is_kept, int positions, bool paired) -> Tensor",
)
torch.library.define(
    "tpu_tgi::experts",
    "(Tensor hidden, Tensor chosen, Tensor weights, Tensor[] parameters, str[] names, bool inputs_first, "
    "str activation, float alpha, float limit) -> Tensor",
)


def write_pieces(
    cache: Tensor, new: Tensor, slots: Tensor, starts: Tensor, ring: bool, positions: int = 1
) -> Tensor:
    """The cache with each row of `new` in its slot, in place if the cache is given away.

    Args:
        cache: [slots, length, ...], or with the length in another place. Two slots share a row where it has twice the
            lanes of `new`, see `layout`.
        new: [rows, queries, ...], likewise.
        slots, starts: [rows] int32; a row that would reach past the end of its slot is moved back to end there.
        ring: what would reach past the end goes on at the beginning instead, see `rings`; `starts` are positions.
        positions: the dimension of length and queries.
    """
    written: Tensor = torch.ops.tpu_tgi.write_pieces(cache, new, slots, starts, ring, positions)
    return written


def write_steps(cache: Tensor, new: Tensor, places: Tensor) -> Tensor:
    """The cache [slots, length, ...] with `new` [slots, queries, ...] at `places` [slots, queries] int32 of each slot.

    In place if the cache is given away; what would lie behind the end of a slot is left out. Two slots share a row of
    the cache where it has half as many.
    """
    written: Tensor = torch.ops.tpu_tgi.write_steps(cache, new, places)
    return written


def copy_slot(
    cache: Tensor, slot: Tensor, source: Tensor, is_kept: Tensor, positions: int, paired: bool
) -> Tensor:
    """The cache [slots, ...] in which a slot holds what another does, and zeros where `is_kept` [length] bool is False.

    Args:
        slot, source: [1] int32.
        positions: the dimension of length.
        paired: two slots share a row, see `layout`.
    """
    copied: Tensor = torch.ops.tpu_tgi.copy_slot(cache, slot, source, is_kept, positions, paired)
    return copied


def attend_pieces(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    slots: Tensor,
    ends: Tensor,
    weighing: Weighing,
    *,
    paired: bool,
) -> Tensor:
    """Attention of each row over what its slot holds, read in blocks up to the furthest of `ends`.

    Args:
        query: [rows, heads, queries, head_dim], already scaled.
        keys, values: the whole cache, [slots, length, key_value_heads, head_dim] or [slots, length, lanes].
        mask: [rows or 1, 1, queries, length] bool, True where a query may look; each looks at itself at least.
        slots, ends: [rows] int32; no query of a row looks at or behind its end. Of a ring, ends may be larger than the
            length.
        weighing: its tensors as they come.
        paired: two slots share a row of keys and of values, see `layout`.

    Returns:
        [rows, queries, heads, head_dim of the values].
    """
    mixed: Tensor = torch.ops.tpu_tgi.attend_pieces(
        query,
        keys,
        values,
        mask,
        slots,
        ends,
        weighing.key_value_heads,
        weighing.softcap,
        weighing.sinks,
        weighing.key_scales,
        weighing.value_scales,
        paired,
    )
    return mixed


def experts(
    hidden: Tensor,
    chosen: Tensor,
    weights: Tensor,
    parameters: Mapping[str, Tensor],
    inputs_first: bool,
    activation: str,
    alpha: float,
    limit: float,
) -> Tensor:
    """What the chosen experts make of each token; no token's result depends on the others.

    Args:
        hidden: [tokens, hidden].
        chosen, weights: [tokens, k], integers and floats. The number of experts is none of them; what a token that has
            none comes to means nothing.
        parameters: by name, with the experts as first dimension: "gate" and "up" [experts, hidden, width] if
            `inputs_first`, else [experts, width, hidden]; "down" [experts, width, hidden]. There may be "gate_bias",
            "up_bias" [experts, width] and "down_bias" [experts, hidden], and for matrices in int8 one scale for each
            output: "gate_scales", "up_scales" and "down_scales", of the shapes of the biases.
        activation, alpha, limit: see `engine.experts.Gating`.

    Returns:
        [tokens, hidden] in the dtype of `hidden`.
    """
    computed: Tensor = torch.ops.tpu_tgi.experts(
        hidden,
        chosen.to(torch.int32),
        weights.to(torch.float32),
        list(parameters.values()),
        list(parameters),
        inputs_first,
        activation,
        alpha,
        limit,
    )
    return computed
