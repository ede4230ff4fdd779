"""Small pictures that live inside the page."""

import base64
import io

THUMBNAIL_PX = 56  # sharp on screens with two device pixels a CSS pixel


def thumbnail_uri(picture: bytes) -> str:
    """Return an image file as a small WebP data URI, over white where it is transparent."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as opened:
        image = opened.convert("RGBA")
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    file = io.BytesIO()
    page.convert("RGB").save(file, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
