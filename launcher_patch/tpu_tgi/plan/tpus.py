"""The TPUs that can be planned for: what a chip has, and how many of them one host drives."""

from dataclasses import dataclass

from text_generation_server.errors import InvalidSettingError


@dataclass(frozen=True)
class Tpu:
    """One host of a TPU.

    Attributes:
        name: as Google rents it.
        chips: of the host.
        topology: as libtpu has it; the smallest that it knows has four chips.
        memory: HBM of a chip, bytes.
        bandwidth: of that, bytes in a second.
        flops: of bfloat16 in a second, of a chip.
    """

    name: str
    chips: int
    topology: str
    memory: int
    bandwidth: float
    flops: float


def generation(name: str, gibibytes: int, bandwidth: float, flops: float) -> list[Tpu]:
    return [
        Tpu(f"{name}-{chips}", chips, topology, gibibytes * 2**30, bandwidth, flops)
        for chips, topology in ((1, f"{name}:2x2"), (4, f"{name}:2x2"), (8, f"{name}:2x4"))
    ]


# https://cloud.google.com/tpu/docs/v5e and .../v6e.
TPUS = {
    tpu.name: tpu for tpu in [*generation("v5e", 16, 819e9, 197e12), *generation("v6e", 32, 1640e9, 918e12)]
}


def tpu_named(name: str) -> Tpu:
    """Raises InvalidSettingError for a name that is not in the table."""
    if name not in TPUS:
        raise InvalidSettingError(f"`--tpu {name}` is not known. Use one of {', '.join(TPUS)}")
    return TPUS[name]
