"""The networks that come with the package: one entry a folder (`igcsearch list`); `results/studies/` is git-ignored."""
