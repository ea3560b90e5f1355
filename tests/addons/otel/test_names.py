"""The names are those of OpenTelemetry."""

from importlib import import_module

import pytest

pytest.importorskip("opentelemetry.semconv")

from eventbus_mp.addons.otel import names


def test_attributes_are_those_of_the_conventions() -> None:
    messaging = import_module("opentelemetry.semconv._incubating.attributes.messaging_attributes")
    theirs = {name: value for name, value in vars(messaging).items() if name.startswith("MESSAGING_")}
    theirs["SERVER_ADDRESS"] = import_module("opentelemetry.semconv.attributes.server_attributes").SERVER_ADDRESS
    theirs["ERROR_TYPE"] = import_module("opentelemetry.semconv.attributes.error_attributes").ERROR_TYPE
    ours = {name: value for name, value in vars(names).items() if isinstance(value, str) and "." in value}
    for name in ("SCHEMA_URL", "ATTEMPT", "OUTCOME", "SKIP_REASON", "__name__", "__file__", "__cached__", "__doc__"):
        ours.pop(name, None)
    ours.pop("__package__", None)
    assert ours
    for name, value in ours.items():
        short = name.removeprefix("MESSAGING_")
        candidates = [key for key in theirs if key.endswith(short)]
        assert value in [theirs[key] for key in candidates], name


def test_operation_types_are_those_of_the_conventions() -> None:
    messaging = import_module("opentelemetry.semconv._incubating.attributes.messaging_attributes")
    known = {each.value for each in messaging.MessagingOperationTypeValues}
    operations = [value for value in vars(names).values() if isinstance(value, names.Operation)]
    assert {operation.type for operation in operations} <= known
    assert len(operations) == 6


def test_the_schema_is_one_that_there_is() -> None:
    schemas = import_module("opentelemetry.semconv.schemas").Schemas
    assert names.SCHEMA_URL in [schema.value for schema in schemas]


@pytest.mark.parametrize(
    ("error", "name"), [(ValueError(), "ValueError"), (names.Operation.__class__, "type"), (KeyError(1), "KeyError")]
)
def test_the_name_of_an_error(error: BaseException, name: str) -> None:
    assert names.error_type(error) == name
