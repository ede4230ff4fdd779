"""Names a user chooses, and the safe names made from them."""

import re
from typing import Annotated, Literal

from pydantic import StringConstraints

from data_contracts.errors import ContractInvalid

DOMAIN_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
COLUMN_PATTERN = r"^[A-Za-z][A-Za-z0-9_]{0,62}$"

DomainName = Annotated[str, StringConstraints(pattern=DOMAIN_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Modality = Literal["text", "image", "audio", "video", "tabular"]
MODALITIES: tuple[Modality, ...] = ("text", "image", "audio", "video", "tabular")


def check_domain(name: str) -> str:
    """Return `name` if it may name a domain.

    Raises:
        ContractInvalid: the name has other characters than a-z, 0-9 and dashes, or is too long.
    """
    if not re.fullmatch(DOMAIN_PATTERN, name):
        raise ContractInvalid(
            f"{name!r} cannot name a domain: use 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit, "
            "for example 'noto-ru'.",
            domain=name,
        )
    return name


def items_table(domain: str) -> str:
    """Name of the lake table that holds the items of `domain`; dashes become underscores."""
    return "items_" + check_domain(domain).replace("-", "_")
