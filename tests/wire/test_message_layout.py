"""The compiled messages against the numbers and types that routers from 1.4.2 to 3.3.7 were compiled with."""

import pytest
from google.protobuf.descriptor import FieldDescriptor

from text_generation_server.pb import messages_pb2, service_v2_pb2, service_v3_pb2

TYPES = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}

# From the protocol notes, section 1.1: "?" is optional (it has presence), "*" is repeated.
LAYOUT = """
HealthRequest:
HealthResponse:
InfoRequest:
InfoResponse: 1 bool, 2 string, 3 string, 4 uint32?, 5 uint32, 6 bool, 7 bool, 8 string, 9 uint32
ServiceDiscoveryRequest:
ServiceDiscoveryResponse: 1 string*
ClearCacheRequest: 1 uint64?
ClearCacheResponse:
Image: 1 bytes, 2 string
InputChunk: 1 string?, 2 Image?
Input: 1 InputChunk*
NextTokenChooserParameters: 1 float, 2 uint32, 3 float, 4 float, 5 bool, 6 uint64, 7 float, 8 bool, 9 float, \
10 string, 11 GrammarType
StoppingCriteriaParameters: 1 uint32, 2 string*, 3 bool
Request: 1 uint64, 2 string, 3 uint32, 4 NextTokenChooserParameters?, 5 StoppingCriteriaParameters?, 6 bool, \
7 uint32, 8 Input?, 9 uint32*, 10 uint32*, 11 string?, 12 uint32, 13 bool, 14 uint32?
Batch: 1 uint64, 2 Request*, 3 uint32, 4 uint32, 5 uint32
CachedBatch: 1 uint64, 2 uint64*, 3 uint32, 4 uint32, 5 uint32
GeneratedText: 1 string, 2 uint32, 3 FinishReason, 4 uint64?
Tokens: 1 uint32*, 2 float*, 3 string*, 4 bool*
Generation: 1 uint64, 2 Tokens?, 3 Tokens?, 4 GeneratedText?, 5 Tokens*
FilterBatchRequest: 1 uint64, 2 uint64*
FilterBatchResponse: 1 CachedBatch?
PrefillRequest: 1 Batch?, 2 CachedBatch?
PrefillResponse: 1 Generation*, 2 CachedBatch?, 3 uint64, 4 uint64, 5 uint64, 6 uint64?
DecodeRequest: 1 CachedBatch*
DecodeResponse: 1 Generation*, 2 CachedBatch?, 3 uint64, 4 uint64, 5 uint64, 6 uint64?
WarmupRequest: 1 Batch?, 2 uint32?, 3 uint32, 4 uint32?
WarmupResponse: 1 uint32?, 2 uint32, 3 uint32
"""

EXPECTED = dict(line.split(":", 1) for line in LAYOUT.strip().splitlines())

RPCS = {"Info", "ServiceDiscovery", "ClearCache", "FilterBatch", "Warmup", "Prefill", "Decode", "Health"}


def layout_of(name: str) -> str:
    fields = []
    for field in messages_pb2.DESCRIPTOR.message_types_by_name[name].fields:
        if field.message_type is not None:
            kind = field.message_type.name
        elif field.enum_type is not None:
            kind = field.enum_type.name
        else:
            kind = TYPES[field.type]
        mark = "*" if field.is_repeated else "?" if field.has_presence else ""
        fields.append((field.number, f"{field.number} {kind}{mark}"))
    return ", ".join(text for _, text in sorted(fields))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_message_has_the_numbers_and_types_of_the_stock_routers(name: str) -> None:
    assert layout_of(name) == EXPECTED[name].strip()


def test_there_is_no_message_that_routers_do_not_know() -> None:
    assert set(messages_pb2.DESCRIPTOR.message_types_by_name) == set(EXPECTED)


def test_enums_have_the_values_of_the_stock_routers() -> None:
    values = {
        name: {value.name: value.number for value in enum.values}
        for name, enum in messages_pb2.DESCRIPTOR.enum_types_by_name.items()
    }
    assert values == {
        "GrammarType": {"GRAMMAR_TYPE_NONE": 0, "GRAMMAR_TYPE_JSON": 1, "GRAMMAR_TYPE_REGEX": 2},
        "FinishReason": {
            "FINISH_REASON_LENGTH": 0,
            "FINISH_REASON_EOS_TOKEN": 1,
            "FINISH_REASON_STOP_SEQUENCE": 2,
        },
    }


@pytest.mark.parametrize(
    ("module", "package"), [(service_v2_pb2, "generate.v2"), (service_v3_pb2, "generate.v3")]
)
def test_both_services_have_the_name_and_the_calls_of_their_routers(module: object, package: str) -> None:
    service = module.DESCRIPTOR.services_by_name["TextGenerationService"]  # type: ignore[attr-defined]
    assert service.full_name == f"{package}.TextGenerationService"
    assert {method.name for method in service.methods} == RPCS
    for method in service.methods:
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"
