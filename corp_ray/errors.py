"""Exceptions of the package. Every one pickles, so it crosses a process unchanged.

`exit_code` is what a job returns when the exception ends it: 2 for input that the user can
mend, 1 for a failure while running.
"""


class CorpError(Exception):
    """Base of all errors raised on purpose; the message is one line fit for a terminal."""

    exit_code = 1


class ConfigError(CorpError):
    """A setting is unknown, of the wrong type, or outside what can be run."""

    exit_code = 2


class TaskError(CorpError):
    """Examples cannot be loaded, split or graded as configured."""

    exit_code = 2


class EngineError(CorpError):
    """An engine could not load, perturb or generate."""


class EngineLostError(EngineError):
    """An engine failed in a way that leaves it in an unknown state; it must be replaced."""


class RewardTableError(CorpError):
    """The reward table on disk cannot be used or extended by this run."""

    exit_code = 2


class StorageError(CorpError):
    """A storage other than the local disk failed; what it held before is whole."""


class LeaseError(CorpError):
    """Another driver has taken over this run's directory; what is on disk stays valid."""


class CheckpointError(CorpError):
    """A model folder or recipe is missing, incomplete or not what it claims to be."""

    exit_code = 2
