"""Lists of images in, bundles out and in."""
