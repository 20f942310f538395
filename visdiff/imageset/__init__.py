"""A set of images: names, lazily decoded pixels and a metadata table.

Opening a set lists files and reads a table, without decoding any image. Tens of thousands of images
take a few megabytes of memory; pixels are decoded on request, one image at a time.
"""

from visdiff.imageset.images import ImageSet, Item

__all__ = ["ImageSet", "Item"]
