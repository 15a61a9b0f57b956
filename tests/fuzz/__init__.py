"""Fuzz targets: damaged input for every interface, and the contract that each command keeps."""
