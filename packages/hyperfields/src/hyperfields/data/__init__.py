"""Posed images of scenes, by prompt: exact renders, trained fields, folders of other systems."""
