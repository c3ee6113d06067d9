"""slq/errors.py: users catch ours by one name, or by the builtin that they expect."""

import pickle

import pytest

from slq import errors

BUILTINS = {
    "AliasedOutputError": ValueError,
    "BackendError": ArithmeticError,
    "DataError": ValueError,
    "DtypeError": TypeError,
    "FileFormatError": ValueError,
    "MemoryForecastError": MemoryError,
    "MissingPackageError": ImportError,
    "NonFiniteError": ArithmeticError,
    "NotLinearError": ValueError,
    "NotPositiveDefiniteError": ValueError,
    "NotRepeatableError": ValueError,
    "NotSymmetricError": ValueError,
    "OperatorError": ValueError,
    "OutOfMemoryError": MemoryError,
    "PlacementError": TypeError,
    "ProductError": RuntimeError,
    "RequestError": ValueError,
    "ShapeError": ValueError,
    "SingularError": ValueError,
    "SlqError": Exception,
    "WidthError": ValueError,
}
CLASSES = [getattr(errors, name) for name in errors.__all__]


def make(kind):
    """An instance of an error class."""
    if kind is errors.NonFiniteError:
        return kind("message", probes=[2], step=7)
    if issubclass(kind, errors.NotPositiveDefiniteError):
        return kind("message", value=-2.0, weight=0.5, bound=0.25)
    return kind("message")


def test_every_error_is_public_and_documented():
    defined = {c.__name__ for c in vars(errors).values() if isinstance(c, type) and c.__module__ == errors.__name__}
    assert defined == set(errors.__all__)
    assert all(c.__doc__ for c in CLASSES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_errors_are_ours_and_a_builtin_and_warnings_are_user_warnings(kind):
    if kind.__name__.endswith("Warning"):
        assert issubclass(kind, errors.SlqWarning)
        assert issubclass(kind, UserWarning)
    else:
        assert issubclass(kind, errors.SlqError)
        assert issubclass(kind, BUILTINS[kind.__name__])


def test_kinds_of_one_cause_share_a_class():
    assert issubclass(errors.WidthError, errors.RequestError)
    assert issubclass(errors.SingularError, errors.NotPositiveDefiniteError)
    for kind in (errors.ShapeError, errors.DtypeError, errors.PlacementError, errors.NonFiniteError):
        assert issubclass(kind, errors.OperatorError)


def test_a_non_finite_error_says_which_probes_and_step():
    error = make(errors.NonFiniteError)
    assert (str(error), error.probes, error.step) == ("message", [2], 7)


def test_an_error_about_definiteness_says_which_ritz_value():
    error = make(errors.SingularError)
    assert (str(error), error.value, error.weight, error.bound) == ("message", -2.0, 0.5, 0.25)


# Errors cross process boundaries pickled (multiprocessing, joblib); one that cannot be unpickled hangs the pool.
@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_errors_survive_pickling(kind):
    error = make(kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)
