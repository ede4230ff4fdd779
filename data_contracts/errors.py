"""Every error a user can meet, in one tree that says who must act.

    MetafuseError
    ├── ContractError          fix the data or its contract; never retried
    │   ├── ContractInvalid        the contract file itself cannot be used
    │   ├── BatchRefused           a whole batch breaks its contract
    │   ├── SourceNotFound         a source file or folder is not there
    │   ├── UnknownDomain          no such domain in the lake
    │   ├── EpisodeTooSmall        too few labelled items or classes for what was asked
    │   ├── MediaRefused           one media file cannot be decoded safely (quarantines its row)
    │   └── QueryRefused           a user's SQL cannot run
    ├── ModelError             fix the code or the config; never retried
    │   ├── UnknownModel           nothing registered under that name or alias
    │   └── ModelRefused           a registered model fails its integrity checks
    ├── PackageMissing         an optional package is not installed
    ├── HomeUnusable           the home directory cannot be written
    ├── SettingInvalid         an environment variable cannot be used
    ├── LakeCorrupt            a stored table or object does not match its own record
    └── TransientError         try again
        └── ServiceUnavailable     a server or store did not answer

A message names the thing, what was found, what was needed and the next step; the facts are attributes too.
The command line prints the message alone and exits with 2.
"""

from typing import Any


class MetafuseError(Exception):
    """Base of all errors meant for users; `facts` holds what the message says, by name."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts

    def __getattr__(self, name: str) -> Any:
        """Give the facts as attributes: `error.domain`."""
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(name)


class ContractError(MetafuseError):
    """The data or its contract must change."""


class ContractInvalid(ContractError):
    """A contract file cannot be read or asks for something the compiler does not support."""


class BatchRefused(ContractError):
    """A whole batch breaks its contract; nothing of it was written."""


class SourceNotFound(ContractError):
    """A source file or folder is not there."""


class UnknownDomain(ContractError):
    """The lake has no such domain."""


class EpisodeTooSmall(ContractError):
    """Too few classes, or too few labelled items in a class, for the episode that was asked for."""


class MediaRefused(ContractError):
    """One media file cannot be decoded safely; `code` is the reason its row is quarantined with."""


class QueryRefused(ContractError):
    """A user's SQL is wrong or asks for something outside the lake."""


class ModelError(MetafuseError):
    """The code or the config must change."""


class UnknownModel(ModelError):
    """The registry has no such model, version or alias."""


class ModelRefused(ModelError):
    """A registered model fails its integrity checks: wrong digest, unknown architecture, non-finite weights."""


class PackageMissing(MetafuseError):
    """What was asked for needs an optional package that is not installed."""


class HomeUnusable(MetafuseError):
    """The home directory cannot be made or written."""


class SettingInvalid(MetafuseError):
    """A `METAFUSE_*` environment variable has a value that cannot be used."""


class LakeCorrupt(MetafuseError):
    """A stored table or object does not match its own record."""


class TransientError(MetafuseError):
    """Trying again may succeed."""


class ServiceUnavailable(TransientError):
    """A server or store did not answer."""
