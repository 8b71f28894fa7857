"""What --quantize means for a checkpoint. No torch here."""

from text_generation_server.errors import InvalidSettingError
from text_generation_server.model.quantisation.scheme import MADE, STORED, Scheme
from text_generation_server.model.quantisation.stored import StoredLayers


def scheme_to_make(quantize: str | None, stored: StoredLayers) -> Scheme | None:
    """In what the linear layers of a checkpoint are kept that is not quantised; None: as they come.

    Raises InvalidSettingError: --quantize and the checkpoint contradict each other.
    """
    if quantize is None:
        return None
    if not stored:
        if quantize in STORED:
            raise InvalidSettingError(
                f"--quantize {quantize} is for checkpoints that come so, and this one has no quantization_config in "
                "config.json. Use --quantize int8 or --quantize fp8, which are made of any checkpoint"
            )
        return MADE[quantize]
    layer = next(iter(stored.values()))
    if quantize not in layer.format.quantize:
        raise InvalidSettingError(
            f"--quantize {quantize} contradicts the checkpoint, which comes as {layer.format.name} "
            f"(quantization_config in config.json). Leave --quantize out, or use --quantize {layer.format.quantize[0]}"
        )
    return None
