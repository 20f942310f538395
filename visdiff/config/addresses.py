"""URLs of endpoints without the secrets that they may hold, for reports and results files."""

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit


def without_secrets(url: str) -> str:
    """Returns a URL without its user, its password, and the values of its query.

    Values of versions ("api-version") are kept. A URL without secrets is returned unchanged.

    Args:
        url: The URL; "" is returned for one that cannot be parsed.
    """
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return ""
    known = [(name, value) for name, value in query if "version" in name.lower()]
    place = parts.netloc.rpartition("@")[2]
    if place == parts.netloc and known == query:
        return url
    return urlunsplit(parts._replace(netloc=place, query=urlencode(known)))
