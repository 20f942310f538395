"""How a taught subject is named: in training captions, in prompts and in audits."""

ARTICLE = "a"
"""The article before an identifier. A new word has no sound yet, so that it does not depend on the
first letter ("a olis dog"); DreamBooth's prompts have the same."""


def subject_phrase(identifier: str, noun: str) -> str:
    """Returns the name of a subject, "a olis dog"."""
    return f"{ARTICLE} {identifier} {noun}"
