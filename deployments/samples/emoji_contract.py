"""The contract of one emoji domain."""

from data_contracts.contract import BatchRule, Column, Contract, Format, LogicalType, Role, Rules, Server
from deployments.samples.emoji_artwork import SIZE_PX, Vendor

_PICTURE = "PNG; empty where the vendor has no drawing"
_LABEL = r"^[a-z]+(-[a-z]+)*$"


def emoji_contract(vendor: Vendor, language: str, format: Format) -> Contract:
    """Return the contract of the domain `vendor`-`language`; a drawing in black has no column for its colours."""
    return Contract(
        domain=f"{vendor}-{language}",
        version="1.0.0",
        description=f"Emoji as {vendor} draws them, named in the language {language!r}, labelled with a subcategory.",
        server=Server(path=f"items.{format}", format=format),
        columns=(
            _column("item_id", "id", "digest of the characters", required=True, unique=True),
            _column("picture", "image", _PICTURE, max_pixels=SIZE_PX * SIZE_PX, max_bytes=1_000_000),
            _column("title", "text", "Unicode CLDR short name", language=language, min_length=1, max_length=200),
            _column("added_in", "tabular", "year of the first Unicode version with it", minimum=2010, maximum=2100),
            _column("paths", "tabular", "shapes or outlines in the drawing", minimum=0),
            *(() if vendor == "noto" else (_column("colours", "tabular", "colours named in the drawing", minimum=0),)),
            _column("file_bytes", "tabular", "size of the picture file", minimum=1),
            _column("label", "label", "subcategory; empty until someone labels it", pattern=_LABEL),
        ),
        batch_rules=(BatchRule(metric="rowCount", operator=">", value=(0.0,)),),
    )


def _column(name: str, role: Role, description: str, *, language: str | None = None, **rules: object) -> Column:
    logical_type: LogicalType = "integer" if role == "tabular" else "string"
    return Column(
        name=name,
        logical_type=logical_type,
        role=role,
        language=language,
        description=description,
        rules=Rules.model_validate(rules),
    )
