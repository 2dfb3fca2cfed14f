"""An example of a package that brings a dataset and an encoder."""
