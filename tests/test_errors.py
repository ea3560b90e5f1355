"""The tree of errors: everything has one root, and its type says whose fault it is."""

import inspect

import pytest

from eventbus_mp import errors

ALL = [getattr(errors, name) for name in errors.__all__ if name not in ("Retry", "Skip")]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_one_root(error):
    assert issubclass(error, errors.EventBusError)


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_each_is_in_the_tree_of_the_docstring_and_has_its_own(error):
    assert f":exc:`{error.__name__}`" in errors.__doc__
    assert inspect.getdoc(error)


def test_the_caller_s_mistakes_are_value_errors():
    for error in (errors.UnknownTopic, errors.InvalidTopic, errors.InvalidPattern, errors.NotSubscribed):
        assert issubclass(error, errors.UsageError)
    assert issubclass(errors.EventTooLarge, errors.UsageError)
    assert issubclass(errors.EncodeError, errors.UsageError)
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.WaitTimeout, TimeoutError)


def test_a_skip_is_no_error():
    assert not issubclass(errors.Skip, errors.EventBusError)
    assert not issubclass(errors.Retry, errors.EventBusError)
