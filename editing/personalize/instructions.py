"""Instructions for the models that write captions and words of class prompts.

They are sent as they are; ``{noun}`` and the other names in braces are replaced. A changed text
needs a new `VERSION`, which is part of the id under which replies are recorded.
"""

from collections.abc import Mapping
from types import MappingProxyType

VERSION = 1

INSTRUCTION = (
    "Write one caption of this image for training. The subject is the {noun}. Refer to the subject "
    "only as 'a {noun}': no colour, shape, material, texture, breed, brand, markings or any other "
    "attribute of its permanent appearance. Describe everything else precisely: other objects with "
    "their colour, material and position, things worn by or attached to the subject, contents, the "
    "background, the lighting, the subject's pose, action and facial expression. Start with "
    "'a {noun}'. One sentence, at most 60 tokens."
)
"""What a chat model is asked. Ours: the paper shows its instruction as a figure only."""

STYLE_INSTRUCTION = (
    "Describe all depicted content of this image in detail, but nothing about artistic style, "
    "medium, palette or brushwork. End with 'in the style of art'. One sentence, at most 60 tokens."
)
"""The same where the subject is a style (the paper's bias "substance")."""

DETAILED_INSTRUCTION = (
    "Write one caption of this image for training. The subject is the {noun}. Describe the subject "
    "precisely: its colour, shape, material, texture and markings, before the word '{noun}'. "
    "Describe the other objects and the background as precisely. Start with 'a', name the {noun} "
    "once. One sentence, at most 60 tokens."
)
"""Case 4 of SID's table 1, for the ablation: the subject is described as well."""

CONTINUATION_INSTRUCTION = (
    "Continue this caption of the image: 'a {noun}'. State what the {noun} does, where it is and "
    "what is around it, without naming the {noun} again. Write the continuation only, at most 30 "
    "words."
)
"""What a chat model is asked in place of BLIP, which continues "a {noun}" by itself."""

DETAILS_OBJECTION = (
    "That caption describes the {noun} itself ({details}). Write it again without these words and "
    "without others for the appearance of the {noun}; keep everything else. Write the caption only."
)
"""The second question after a caption of case 4."""

NOUN_OBJECTION = (
    "The caption has to contain '{noun}' exactly once. Write it again: start with 'a {noun}', and "
    "write 'it' where the {noun} comes up again. Write the caption only."
)
"""The second question after a caption that does not name the class noun once."""

POOL_INSTRUCTION = (
    "List {count} different {what}. Each is used in the prompt of an image generator: {example}. "
    "They have to be as diverse as possible, lower case, of at most {words} words, without numbers "
    'or explanations.{known} Reply with JSON: {{"words": ["…", …]}}.'
)
"""The question for the words of one slot of class prompts (He et al., appendix A, asks alike)."""

POOL_SLOTS: Mapping[str, str] = MappingProxyType({
    "shape": "adjectives for the shape that a {noun} may have",
    "colour": "colours that a {noun} may have",
    "texture": "adjectives for the surface, material or texture that a {noun} may have",
    "body": "adjectives for the body that a {noun} may have",
    "build": "adjectives for the build or age that a {noun} may have, evenly over all kinds",
    "skin": "adjectives for the skin, fur or colouring that a {noun} may have, over all kinds",
    "emotion": "adjectives for the emotion that a {noun} may show",
    "settings": "places where a {noun} may be, each beginning with a preposition",
    "motions": "actions of a {noun} with their place, each beginning with a verb in -ing",
    "styles": "styles and media of a picture other than a photograph",
})  # fmt: skip
"""What is asked for, by slot; "motions" are the settings of a living being."""
