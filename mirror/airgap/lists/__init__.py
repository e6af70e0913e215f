"""The lists of images that people have in hand, told apart by their content."""
