"""From files to images and streams."""
