"""Every exception that agentlm-evals raises on purpose, one class a kind. Refuses to know what is being done about them.

A message says what was given, what is allowed and what to do.
"""


class EvalError(Exception):
    """Base of all errors raised on purpose; anything else is a defect."""


class ConfigError(EvalError, ValueError):
    """A setting of a run is outside what is allowed, or settings contradict each other."""


class UnknownTaskError(ConfigError):
    """No task or group has this name."""


class DataError(EvalError):
    """A task's items are missing, unreadable or not the ones that their checksum promises."""


class ProtocolError(EvalError):
    """A protocol's sources are missing, or are not the pinned ones."""


class RequirementError(EvalError):
    """A task cannot run here: a program, data or a model's ability is missing."""


class EpisodeEnd(EvalError):  # noqa: N818  # it ends an episode, and is no fault
    """Ends an episode with the outcome "format or limit"; raised by a task or by the harness, scored as such."""


class FormatError(EpisodeEnd):
    """The model's reply has not the form that the task asks for, and the task's rules end the episode."""


class LimitReached(EpisodeEnd):
    """A round, token or time budget is spent, or the prompt fits the model's context no more."""


class HarnessFault(EvalError):  # noqa: N818  # the glossary's word
    """Something other than the model failed: a server, an environment, ourselves. Never a wrong answer."""


class ModelError(HarnessFault):
    """A model's server did not give an answer, however often it was asked."""


class RefusedError(HarnessFault):
    """A model's server understood the request and refused it (HTTP 4xx): asking again would not help."""


class EnvironmentFault(HarnessFault):
    """A task's environment (database, shell, browser) broke."""


class UnsupportedError(RefusedError):
    """The server lacks an ability that the task needs, such as log-probabilities of the prompt."""


class RunError(EvalError):
    """A run's directory cannot be used: another run's, in use by another process, or damaged."""
